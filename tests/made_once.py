"""What several tests need and takes its time: made once for all of them, however many processes they run in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

FINETUNE = Path(__file__).parent.parent / 'train_scripts' / 'finetune.py'


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Give a folder in the home of the tests; whoever asks first fills it. Nobody else may write into it.

    Args:
        name: Of the folder.
        make: Fills the empty folder that it gets.
    """
    folder = Path(os.environ['CONVATTN_TEST_HOME']) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_suffix('.made')
    with FileLock(folder.with_suffix('.lock')):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def trained_run() -> Path:
    """Give the folder of the quickstart's run, which takes some minutes: it is for slow tests."""
    return made_once('trained', _train) / 'run'


def _train(folder: Path) -> None:
    command = [sys.executable, '-m', 'accelerate.commands.launch', FINETUNE, '--output', folder / 'run']
    command += ['--threads', '1'] if 'PYTEST_XDIST_WORKER' in os.environ else []  # other cores are taken
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=1200)
    assert finished.returncode == 0, finished.stderr
