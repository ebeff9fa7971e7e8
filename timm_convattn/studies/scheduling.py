"""Many runs: some at a time on this machine, or each a task of a Ray cluster."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Any, Literal

import torch

from timm_convattn.environment import count_cores
from timm_convattn.errors import InputError
from timm_convattn.ray_cluster import ray_cluster
from timm_convattn.studies.execution import Task

__all__ = ['Outcome', 'Resources', 'execute_all']

Ended = Literal['finished', 'failed', 'stopped']


@dataclass(frozen=True)
class Resources:
    """What the runs have to share."""

    jobs: int = 1
    """Runs at a time, on this machine."""
    gpus_per_run: int | None = None
    """GPUs of each run, a process each. None: one, where there are any."""
    cpus_per_run: int | None = None
    """Threads of each run on a CPU, and processors that it takes on a Ray cluster. None: the cores shared out."""
    minutes: float | None = None
    """Time after which no run is begun, and those under way are stopped at a checkpoint."""

    def check(self) -> None:
        """Refuse what cannot be shared out.

        Raises:
            InputError: Naming the option of reproduce.py.
        """
        for option, value, least in (
            ('jobs', self.jobs, 1),
            ('gpus-per-run', self.gpus_per_run, 0),
            ('cpus-per-run', self.cpus_per_run, 1),
            ('budget', self.minutes, 0),
        ):
            if value is not None and not value >= least:  # NaN is not
                raise InputError(f'--{option} is {value}, it must be at least {least}.')


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    task: Task
    ended: Ended
    seconds: float


def execute_all(
    tasks: Sequence[Task], resources: Resources, engine: Literal['local', 'ray'] = 'local', address: str | None = None
) -> Iterator[Outcome]:
    """Execute tasks and give how each ended, as they end.

    Args:
        tasks: What to execute, each behind the one that it starts from. Those that are finished already end at once.
        resources: What they share.
        engine: 'ray' for a cluster whose nodes see the same files under the same paths.
        address: Of the cluster. None: one that is started on this machine.

    Raises:
        InputError: If there is no such cluster, or fewer GPUs than one run asks for.
    """
    resources.check()
    deadline = None if resources.minutes is None else time.time() + 60 * resources.minutes
    if engine == 'ray':
        yield from _on_ray(tasks, resources, address, deadline)
    elif address is not None:
        raise InputError(f'The address {address} is that of a Ray cluster. Say --engine ray, too.')
    else:
        yield from _on_this_machine(tasks, resources, deadline)


def _on_this_machine(tasks: Sequence[Task], resources: Resources, deadline: float | None) -> Iterator[Outcome]:
    gpus = torch.cuda.device_count()
    wanted = resources.gpus_per_run if resources.gpus_per_run is not None else min(gpus, 1)
    if wanted * resources.jobs > gpus:
        raise InputError(f'{resources.jobs} runs of {wanted} GPUs at a time were asked for, this machine has {gpus}.')
    threads = resources.cpus_per_run or max(1, count_cores() // resources.jobs)
    places: queue.Queue[list[str]] = queue.Queue()  # the GPUs of each run that may be under way
    for job in range(resources.jobs):
        places.put([str(index) for index in range(job * wanted, (job + 1) * wanted)])
    interrupted = threading.Event()
    futures: dict[str, Future[Outcome]] = {}

    def execute(task: Task) -> Outcome:
        if task.after in futures:  # handed in before this one, so that a thread has it already
            wait([futures[task.after]])

        def stop() -> bool:
            return interrupted.is_set() or _is_past(deadline)

        place = places.get()
        try:
            return _outcome(task, stop, threads=None if wanted else threads, gpus=place)
        finally:
            places.put(place)

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
        nodes_gpus = [node['Resources'].get('GPU', 0) for node in ray.nodes() if node['Alive']]
        wanted = resources.gpus_per_run if resources.gpus_per_run is not None else int(min(max(nodes_gpus), 1))
        if wanted > max(nodes_gpus):
            raise InputError(
                f'Runs of {wanted} GPUs were asked for, the largest node of the cluster has {max(nodes_gpus):.0f}.'
            )
        processors = resources.cpus_per_run or 1

        # a task whose node dies is begun anew on another one, and goes on from its newest checkpoint
        @ray.remote(num_cpus=processors, num_gpus=wanted, max_retries=-1)
        def execute(task: Task, after: Outcome | None) -> Outcome:  # Ray waits for the second one
            gpus: list[str] | None = None if wanted else []  # Ray chooses them
            threads = None if wanted else processors
            return _outcome(task, lambda: _is_past(deadline), threads=threads, gpus=gpus)

        references: dict[str, Any] = {}
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


def _outcome(task: Task, stop: Callable[[], bool], **where: Any) -> Outcome:
    started = time.monotonic()
    if not task.is_finished and not stop():
        task.execute(stop=stop, **where)
    task.clear()
    ended: Ended = 'finished' if task.is_finished else 'stopped' if stop() else 'failed'
    return Outcome(task, ended, time.monotonic() - started)


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline
