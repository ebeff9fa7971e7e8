"""Slow fixtures that several tests share: made once for all processes of a test run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

FINETUNE = Path(__file__).parent.parent / 'train_scripts' / 'finetune.py'


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder in the home of the tests, which the first call fills. Tests must not write into it.

    Args:
        name: Name of the folder.
        make: Fills the empty folder that it is called with.
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
    """Return the folder of the quickstart's run. It takes minutes, so only slow tests use it."""
    return made_once('trained', _train) / 'run'


def _train(folder: Path) -> None:
    command = [sys.executable, '-m', 'accelerate.commands.launch', FINETUNE, '--output', folder / 'run']
    command += ['--threads', '1'] if 'PYTEST_XDIST_WORKER' in os.environ else []  # other cores are taken
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=1200)
    assert finished.returncode == 0, finished.stderr
