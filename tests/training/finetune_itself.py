"""finetune.py, for scripts that change something of it first."""

import runpy
import sys
from pathlib import Path


def run_finetune() -> None:
    """Run it with the command line of this process, as if it had been called itself."""
    script = Path(__file__).parents[2] / 'train_scripts' / 'finetune.py'
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name='__main__')
