"""Run a study: each run is a process of `accelerate launch`, several at a time on this machine or on a Ray cluster.

A finished run is not repeated, an interrupted one is resumed.
"""

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock

from timm_convattn.environment import count_cores
from timm_convattn.errors import InputError
from timm_convattn.ray_cluster import ray_cluster
from timm_convattn.studies import supervise
from timm_convattn.studies.matrix import Run
from timm_convattn.training.run_folder import lock_path

__all__ = ['Outcome', 'Resources', 'Task', 'create_task', 'execute_all', 'log_path']

Status = Literal['finished', 'failed', 'stopped']


@dataclass(frozen=True)
class Task:
    """A run as plain data, to be sent to any machine that sees the same files."""

    name: str
    """Folder of the run, as passed to finetune.py."""
    args: tuple[str, ...]
    script: str
    """finetune.py"""
    working_folder: str
    """Folder that relative paths start from."""
    processes: int = 1
    after: str | None = None
    """Folder of the run whose weights it starts from."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.working_folder) / self.name

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / 'results.json').is_file()

    def clear(self) -> None:
        """Remove the checkpoints of a finished run, which are no longer needed and larger than everything else."""
        if self.is_finished:
            shutil.rmtree(self.folder / 'checkpoints', ignore_errors=True)

    def command(self, cpu: bool) -> list[str]:
        """Return the command line that starts or resumes the run.

        Args:
            cpu: Whether to use no GPU.
        """
        launch = [sys.executable, '-m', 'accelerate.commands.launch', '--num_machines', '1', '--dynamo_backend', 'no']
        launch += ['--num_processes', str(self.processes), '--mixed_precision', 'no', *(['--cpu'] if cpu else [])]
        is_started = (self.folder / 'config.yaml').is_file()
        return [*launch, self.script, *(['--resume', self.name] if is_started else [*self.args, '--output', self.name])]

    def execute(
        self,
        threads: int | None = None,
        gpus: Sequence[str] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Run until the end, unless the run is finished, and return the exit status. Its output goes to `FOLDER.log`.

        Args:
            threads: Number of CPU threads. None: the default of finetune.py.
            gpus: GPUs to use, as CUDA names them. None: all; empty: the CPU.
            stop: Called every second; if it returns true, the run writes a checkpoint and stops.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_path(self.folder)):  # an abandoned process of the same run may still be ending
            if self.is_finished:
                return 0
        environment = dict(os.environ)
        if gpus is not None:
            environment['CUDA_VISIBLE_DEVICES'] = ','.join(gpus)
        command = [sys.executable, supervise.__file__]  # started as a file, it imports nothing else
        command += self.command(cpu=gpus is not None and not gpus)
        command += [] if threads is None else ['--threads', str(threads)]
        with log_path(self.folder).open('ab') as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=self.working_folder
            )
            while not stop():
                try:
                    return process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    pass
            process.terminate()
            return process.wait()


def create_task(run: Run, folder: Path, script: Path, processes: int = 1) -> Task:
    """Return the task of a run, with paths relative to the current folder.

    Args:
        run: The run.
        folder: Folder of all runs.
        script: finetune.py
        processes: Number of processes that share the batches of the run.

    Raises:
        InputError: If they cannot share them equally, or the run that it starts from is finished but has no weights.
    """

    def create(run: Run, *args: str, after: str | None = None) -> Task:
        args = (*run.args(processes), *args)
        return Task(str(folder / run.name), args, str(script.resolve()), str(Path.cwd()), processes, after)

    if run.start is None:
        return create(run)
    start = create(run.start)
    weights = folder / run.start.name / 'model'
    task = create(run, '--init-from', f'local-dir:{weights}', after=start.name)
    if start.is_finished and not weights.is_dir() and not task.is_finished:
        raise InputError(
            f'{start.name} was kept without weights, which {run.name} starts from. Remove it to repeat it.'
        )
    return task


def log_path(folder: Path) -> Path:
    """Return the file with the output of a run."""
    return folder.with_name(f'{folder.name}.log')


@dataclass(frozen=True)
class Resources:
    """Resources that the runs share."""

    jobs: int = 1
    """Number of simultaneous runs on this machine, which share its cores."""
    gpus_per_run: int | None = None
    """GPUs of each run, which share its batches. None: one, if there are any."""
    cpus_per_run: int | None = None
    """CPU threads of each run. None: an equal share of the cores, or one on a Ray cluster."""
    budget: float | None = None
    """Minutes after which no run is started, and running ones are stopped at a checkpoint. The same command resumes
    them."""

    def check(self) -> None:
        """Refuse invalid values.

        Raises:
            InputError: Naming the option of reproduce.py.
        """
        for option, value, least in (
            ('jobs', self.jobs, 1),
            ('gpus-per-run', self.gpus_per_run, 0),
            ('cpus-per-run', self.cpus_per_run, 1),
            ('budget', self.budget, 0),
        ):
            if value is not None and not value >= least:  # NaN is not
                raise InputError(f'--{option} is {value}, it must be at least {least}.')


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    task: Task
    status: Status
    seconds: float


def execute_all(
    tasks: Sequence[Task], resources: Resources, engine: Literal['local', 'ray'] = 'local', address: str | None = None
) -> Iterator[Outcome]:
    """Execute tasks and yield each outcome when it is known.

    Args:
        tasks: The tasks, each after the one that it starts from. Finished ones end at once.
        resources: Resources that they share.
        engine: 'ray' for a cluster whose nodes see the same files under the same paths.
        address: Address of the cluster. None: one is started on this machine.

    Raises:
        InputError: If there is no such cluster, or it has fewer GPUs than one run needs.
    """
    resources.check()
    deadline = None if resources.budget is None else time.time() + 60 * resources.budget
    if engine == 'ray':
        yield from _on_ray(tasks, resources, address, deadline)
    elif address is not None:
        raise InputError(f'The address {address} is that of a Ray cluster. Add --engine ray.')
    else:
        yield from _on_this_machine(tasks, resources, deadline)


def _on_this_machine(tasks: Sequence[Task], resources: Resources, deadline: float | None) -> Iterator[Outcome]:
    gpus = torch.cuda.device_count()
    per_run = resources.gpus_per_run if resources.gpus_per_run is not None else min(gpus, 1)
    if per_run * resources.jobs > gpus:
        raise InputError(f'{resources.jobs} runs of {per_run} GPUs at a time were asked for, this machine has {gpus}.')
    threads = resources.cpus_per_run or max(1, count_cores() // resources.jobs)
    slots: queue.Queue[list[str]] = queue.Queue()  # GPUs of each simultaneous run
    for job in range(resources.jobs):
        slots.put([str(index) for index in range(job * per_run, (job + 1) * per_run)])
    interrupted = threading.Event()
    futures: dict[str, Future[Outcome]] = {}

    def execute(task: Task) -> Outcome:
        if task.after in futures:  # submitted before this one, so it already has a thread
            wait([futures[task.after]])

        def stop() -> bool:
            return interrupted.is_set() or _is_past(deadline)

        slot = slots.get()
        try:
            return _execute(task, stop, threads=None if per_run else threads, gpus=slot)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(resources.jobs) as pool:
        for task in tasks:
            futures[task.name] = pool.submit(execute, task)
        try:
            for future in as_completed(futures.values()):
                yield future.result()
        finally:
            interrupted.set()


def _on_ray(
    tasks: Sequence[Task], resources: Resources, address: str | None, deadline: float | None
) -> Iterator[Outcome]:
    with ray_cluster(address, count_cores()) as ray:
        largest = max(node['Resources'].get('GPU', 0) for node in ray.nodes() if node['Alive'])
        gpus_per_run = resources.gpus_per_run if resources.gpus_per_run is not None else int(min(largest, 1))
        if gpus_per_run > largest:
            raise InputError(
                f'Runs of {gpus_per_run} GPUs were asked for, the largest node of the cluster has {largest:.0f}.'
            )
        cpus = resources.cpus_per_run or 1

        # a task whose node dies is started again on another one, and resumes from its newest checkpoint
        @ray.remote(num_cpus=cpus, num_gpus=gpus_per_run, max_retries=-1)
        def execute(task: Task, after: Outcome | None) -> Outcome:  # Ray waits for the second argument
            gpus: list[str] | None = None if gpus_per_run else []  # Ray chooses them
            threads = None if gpus_per_run else cpus
            return _execute(task, lambda: _is_past(deadline), threads=threads, gpus=gpus)

        references: dict[str, object] = {}
        for task in tasks:
            references[task.name] = execute.remote(task, references.get(task.after or ''))
        waiting = list(references.values())
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                yield ray.get(done[0])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _execute(task: Task, stop: Callable[[], bool], threads: int | None, gpus: Sequence[str] | None) -> Outcome:
    started = time.monotonic()
    if not task.is_finished and not stop():
        task.execute(threads, gpus, stop)
    task.clear()
    status: Status = 'finished' if task.is_finished else 'stopped' if stop() else 'failed'
    return Outcome(task, status, time.monotonic() - started)


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline
