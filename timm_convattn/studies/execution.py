"""One run of a study: a process of `accelerate launch`, which goes on where it stopped and is not repeated."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from timm_convattn.errors import InputError
from timm_convattn.studies import supervise
from timm_convattn.studies.matrix import Run
from timm_convattn.training.run_folder import lock_path

__all__ = ['Task', 'task_of']


@dataclass(frozen=True)
class Task:
    """A run as plain data, so that it can be sent to another machine that sees the same files."""

    name: str
    """Folder of the run, as finetune.py is told."""
    args: tuple[str, ...]
    script: str
    """finetune.py"""
    place: str
    """Where relative paths start."""
    processes: int = 1
    after: str | None = None
    """Folder of the run whose weights it starts from."""

    @property
    def folder(self) -> Path:
        """Give the folder of the run."""
        return Path(self.place) / self.name

    @property
    def is_finished(self) -> bool:
        """Whether the run ended well."""
        return (self.folder / 'results.json').is_file()

    def clear(self) -> None:
        """Remove the checkpoints of a finished run, which nothing goes on from: they outweigh all else that it left."""
        if self.is_finished:
            shutil.rmtree(self.folder / 'checkpoints', ignore_errors=True)

    def command(self, cpu: bool) -> list[str]:
        """Give the command line that starts the run, or goes on with it.

        Args:
            cpu: Whether to leave GPUs alone.
        """
        launch = [sys.executable, '-m', 'accelerate.commands.launch', '--num_machines', '1', '--dynamo_backend', 'no']
        launch += ['--num_processes', str(self.processes), '--mixed_precision', 'no', *(['--cpu'] if cpu else [])]
        begun = (self.folder / 'config.yaml').is_file()
        given = ['--resume', self.name] if begun else [*self.args, '--output', self.name]
        return [*launch, self.script, *given]

    def execute(
        self,
        threads: int | None = None,
        gpus: Sequence[str] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Run to the end, unless it is there already; give the exit status.

        What the run prints goes to `FOLDER.log`.

        Args:
            threads: On a CPU. None: what finetune.py takes by itself.
            gpus: The GPUs to use, as CUDA names them. None: all there are; none of them: the CPU.
            stop: Asked every second whether to stop the run, which writes a checkpoint then.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_path(self.folder)):  # a process of the same run that was given up may still be ending
            if self.is_finished:
                return 0
        environment = dict(os.environ)
        if gpus is not None:
            environment['CUDA_VISIBLE_DEVICES'] = ','.join(gpus)
        command = [sys.executable, supervise.__file__]  # the file alone imports nothing
        command += self.command(cpu=gpus is not None and not gpus)
        command += [] if threads is None else ['--threads', str(threads)]
        with log_path(self.folder).open('ab') as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=self.place
            )
            while True:
                try:
                    return process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    if stop():
                        process.terminate()
                        return process.wait()


def task_of(run: Run, folder: Path, script: Path, processes: int = 1) -> Task:
    """Give the task that makes a run, from where this process is.

    Args:
        run: The run.
        folder: The folder of all runs.
        script: finetune.py
        processes: That share the batches of the run.

    Raises:
        InputError: If they cannot share them equally, or what the run starts from is finished but has no weights.
    """

    def make(run: Run, *args: str, after: str | None = None) -> Task:
        given = (*run.args(processes), *args)
        return Task(str(folder / run.name), given, str(script.resolve()), str(Path.cwd()), processes, after)

    if run.start is None:
        return make(run)
    start = make(run.start)
    weights = folder / run.start.name / 'model'
    task = make(run, '--init-from', f'local-dir:{weights}', after=start.name)
    if start.is_finished and not weights.is_dir() and not task.is_finished:
        raise InputError(
            f'{start.name} was kept without weights, which {run.name} starts from. Remove it to repeat it.'
        )
    return task


def log_path(folder: Path) -> Path:
    """Give the file that takes what a run prints."""
    return folder.with_name(f'{folder.name}.log')
