"""The exit of programs."""

import subprocess
import sys

INVALID = """
import atexit, gc
from timm_convattn.errors import InputError
from timm_convattn.entry_point import entry_point
atexit.register(lambda: print(gc.get_freeze_count() > 10_000))
with entry_point():
    raise InputError('There is no such folder. Give another.')
"""


def test_invalid_input_is_one_line_and_the_exit_collects_no_garbage():
    run = subprocess.run([sys.executable, '-c', INVALID], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, 'True\n')
    assert run.stderr == 'error: There is no such folder. Give another.\n'
