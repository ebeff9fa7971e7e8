"""A network that is really trained, on the embedded scenes: once for all tests of a run, however many processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

FINETUNE = Path(__file__).parent.parent / 'train_scripts' / 'finetune.py'


def trained_run() -> Path:
    """Give the folder of a run of three epochs whose model may reject; whoever asks first trains it, for two minutes.

    It is for slow tests. Nobody may write into it.
    """
    folder = Path(os.environ['CONVATTN_TEST_HOME']) / 'trained'
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix('.lock')):
        if not (folder / 'results.json').exists():  # a run writes it last
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, FINETUNE, '--output', folder]
            command += ['--epochs', '3', '--hold-out', '0.1', '--threads', '1']
            finished = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=1200)
            assert finished.returncode == 0, finished.stderr
    return folder
