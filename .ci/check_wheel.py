"""Check a built wheel: `check_wheel.py dist`. Check the installed package: `check_wheel.py --quickstart`.

The first checks which files are in the wheel and its size. The second runs the Python of README's quickstart with the
package that is installed for this interpreter.
"""

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ('timm_convattn', 'timm_convattn_cli')
MAX_SIZE = 1_000_000  # bytes; code and templates need a fifth of it
OTHER_FILES = {
    *('timm_convattn/py.typed', 'timm_convattn_cli/models.json', 'timm_convattn/studies/report.html'),
    *('timm_convattn/hub/templates/model_card.md.jinja', 'timm_convattn/hub/templates/dataset_card.md.jinja'),
}
METADATA = {'METADATA', 'RECORD', 'WHEEL', 'entry_points.txt', 'licenses/LICENSE'}


def check_contents(wheel: Path) -> None:
    """Check that a wheel has the two packages, their templates and metadata, and nothing else.

    Raises:
        SystemExit: If files are missing, or there are too many, or the wheel is too large.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.split('/')[0].endswith('.dist-info')}
    code = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob('*.py')}
    expected, found = code | OTHER_FILES | METADATA, names - metadata | {name.split('/', 1)[1] for name in metadata}
    if found != expected:
        raise SystemExit(f'{wheel.name}: missing {sorted(expected - found)}, unexpected {sorted(found - expected)}')
    if wheel.stat().st_size > MAX_SIZE:
        raise SystemExit(f'{wheel.name} has {wheel.stat().st_size:,} bytes, wanted at most {MAX_SIZE:,}')


def run_quickstart() -> None:
    """Run the first Python snippet of README's quickstart with the installed package.

    Raises:
        SystemExit: If the package is imported from the checkout.
    """
    import timm_convattn

    if Path(timm_convattn.__file__).is_relative_to(ROOT / 'timm_convattn'):
        raise SystemExit(f'{timm_convattn.__file__} is the checkout: install the wheel and leave the checkout')
    section = (ROOT / 'README.md').read_text().partition('## Quickstart\n')[2]
    found = re.search(r'```python\n(.*?)```', section, flags=re.DOTALL)
    if found is None:
        raise SystemExit('README has no quickstart')
    exec(compile(found[1], 'README.md', 'exec'), {'__name__': '__quickstart__'})  # noqa: S102  # our own README


def main() -> None:
    """Run one of the two checks."""
    if sys.argv[1:] == ['--quickstart']:
        return run_quickstart()
    wheels = [path for folder in sys.argv[1:] for path in Path(folder).glob('*.whl')]
    if len(wheels) != 1:
        raise SystemExit(f'There are {len(wheels)} wheels in {sys.argv[1:]}, wanted one: python -m build')
    check_contents(wheels[0])
    print(f'{wheels[0].name}: contents and size are right')
    return None


if __name__ == '__main__':
    main()
