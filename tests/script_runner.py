"""Scripts run within the process of the tests, or one forked from where everything is imported: both spare seconds."""

import importlib
import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from accelerate.state import AcceleratorState, GradientState

HEAVY = ['timm_convattn.hub.publishing', 'timm_convattn.training.finetune']  # what scripts spend seconds to import


def run_script(script: Path, *args: object) -> CompletedProcess[str]:
    """Run a script as its command line would, and give what it said and its exit status."""
    command = [script.name, *map(str, args)]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, 'argv', command), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    forget_accelerate()
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())


def forget_accelerate() -> None:
    """Make accelerate forget what it keeps for a whole process, so that the next run starts as in one of its own."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def start_script(script: Path, *args: object, output: Path) -> multiprocessing.Process:
    """Start a script in a process of its own, which can be killed; what it says goes to a file."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=_run_in_this_process, args=(script, [str(arg) for arg in args], output))
    process.start()
    return process


def _run_in_this_process(script: Path, args: list[str], output: Path) -> None:
    with output.open('ab') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = [str(script), *args]
    runpy.run_path(str(script), run_name='__main__')


class ScriptServer:
    """Runs scripts in processes of their own that are forked from one, whose libraries know an environment.

    Args:
        environment: All variables of that process, which libraries read when they are imported.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, script: Path, *args: object, **changes: str | None) -> CompletedProcess[str]:
        """Run a script, with some variables changed or (None) missing, and give what it said and its exit status."""
        command = [str(script), *map(str, args)]
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, 'out'), Path(folder, 'err')
            order = {'argv': command, 'out': str(out), 'err': str(err), 'changes': changes}
            print(json.dumps(order), file=self.process.stdin, flush=True)
            status = int(self.process.stdout.readline())
            return CompletedProcess(command, status, out.read_text(), err.read_text())

    def stop(self) -> None:
        """End the process that the others are forked from."""
        self.process.stdin.close()
        self.process.wait()


def _serve() -> None:
    for module in HEAVY:
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            return _run_order(order)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_order(order: dict) -> None:
    for stream, name in ((sys.stdout, 'out'), (sys.stderr, 'err')):
        with Path(order[name]).open('wb') as file:
            os.dup2(file.fileno(), stream.fileno())
    for name, value in order['changes'].items():
        os.environ.pop(name, None)
        os.environ.update({} if value is None else {name: value})
    sys.argv = order['argv']
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    _serve()
