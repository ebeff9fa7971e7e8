"""A network that is really trained: the quickstart, once for all tests that need one, however many processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

FINETUNE = Path(__file__).parent.parent / 'train_scripts' / 'finetune.py'


def trained_run() -> Path:
    """Give the folder of the quickstart's run; whoever asks first trains it, for some minutes.

    It is for slow tests. Nobody may write into it.
    """
    folder = Path(os.environ['CONVATTN_TEST_HOME']) / 'trained'
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix('.lock')):
        if not (folder / 'results.json').exists():  # a run writes it last
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, '-m', 'accelerate.commands.launch', FINETUNE, '--output', folder]
            command += ['--threads', '1'] if 'PYTEST_XDIST_WORKER' in os.environ else []  # other cores are taken
            finished = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=1200)
            assert finished.returncode == 0, finished.stderr
    return folder
