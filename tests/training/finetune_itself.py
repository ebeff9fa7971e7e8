"""finetune.py, for scripts that patch it first."""

import runpy
import sys
from pathlib import Path


def run_finetune() -> None:
    """Run it with the command line of this process."""
    script = Path(__file__).parents[2] / 'train_scripts' / 'finetune.py'
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name='__main__')
