"""Print the oldest version of each dependency that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / 'pyproject.toml').read_text())['project']
requirements = [
    *project['dependencies'],
    *(entry for extra in project['optional-dependencies'].values() for entry in extra),
]
oldest = (re.fullmatch(r'([\w.-]+)(?:\[.+\])?>=([\w.]+)', requirement) for requirement in requirements)
print('\n'.join(sorted({f'{found[1]}=={found[2]}' for found in oldest if found})))
