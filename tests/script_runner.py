"""Scripts run within the process of the tests, or one forked from where everything is imported: both spare seconds."""

import io
import multiprocessing
import os
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


def start_script(script: Path, *args: object, output: Path) -> multiprocessing.Process:
    """Start a script in a process of its own, which can be killed; what it says goes to a file."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['timm_convattn.training.finetune'])
    process = context.Process(target=_run_in_this_process, args=(script, [str(arg) for arg in args], output))
    process.start()
    return process


def _run_in_this_process(script: Path, args: list[str], output: Path) -> None:
    with output.open('ab') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = [str(script), *args]
    runpy.run_path(str(script), run_name='__main__')
