"""Scripts run within the process of the tests, which spares the seconds that a fresh one imports for."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock


def run_script(script: Path, *args: object) -> CompletedProcess[str]:
    """Run a script as its command line would, and give what it said and its exit status."""
    command = [script.name, *map(str, args)]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, 'argv', command), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())
