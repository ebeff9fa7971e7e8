"""How programs end."""

import subprocess
import sys

MISTAKEN = """
import atexit, gc
from timm_convattn.errors import InputError
from timm_convattn.entry_point import entry_point
atexit.register(lambda: print(gc.get_freeze_count() > 10_000))
with entry_point():
    raise InputError('There is no such folder. Give another.')
"""


def test_a_mistake_is_said_in_one_line_and_the_end_looks_through_nothing_that_was_imported():
    run = subprocess.run([sys.executable, '-c', MISTAKEN], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, 'True\n')
    assert run.stderr == 'error: There is no such folder. Give another.\n'
