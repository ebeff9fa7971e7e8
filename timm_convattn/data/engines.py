"""Parallel maps: in worker processes of this machine, or on the nodes of a Ray cluster.

Each yields results in the order of the tasks, with a bounded number of tasks in flight: the results do not depend on
where the work was done.
"""

import gc
import logging
import multiprocessing
import pickle  # noqa: TID251  # for tasks and results of Ray's workers
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Literal, Protocol, TypeVar

from timm_convattn.errors import InputError
from timm_convattn.ray_cluster import ray_cluster

__all__ = ['Engine', 'OrderedMap', 'map_ahead', 'ordered_map']

Engine = Literal['local', 'ray']
Task = TypeVar('Task')
Result = TypeVar('Result')


class OrderedMap(Protocol):
    """A `map` over one iterable."""

    def __call__(self, function: Callable[[Task], Result], tasks: Iterable[Task], /) -> Iterable[Result]:
        """Apply the function to each task."""


@contextmanager
def ordered_map(engine: Engine, num_proc: int, address: str | None) -> Iterator[OrderedMap]:
    """Yield a parallel `map` that keeps the order.

    Args:
        engine: 'local' for processes of this machine, 'ray' for a Ray cluster.
        num_proc: Number of processes. 1: no other process.
        address: Address of the Ray cluster, as `ray.init` takes it. None: a new one with `num_proc` CPUs on this
            machine.

    Raises:
        InputError: If there is no cluster at the address, Ray is not installed, or an address is given for 'local'.
    """
    if engine == 'ray':
        with _ray_map(num_proc, address) as ray_map:
            yield ray_map
    elif address is not None:
        raise InputError(f'The address {address} is that of a Ray cluster. Add --engine ray.')
    elif num_proc == 1:
        yield map
    else:
        # A fork starts at once, where a new process would import for seconds; with Ray's threads it would not be safe.
        # Frozen objects are not collected, so that their memory stays shared with the parent process.
        start = 'fork' if sys.platform == 'linux' and 'ray' not in sys.modules else 'spawn'
        with ProcessPoolExecutor(num_proc, multiprocessing.get_context(start), initializer=gc.freeze) as pool:
            yield partial(map_ahead, pool, ahead=2 * num_proc)


def map_ahead(
    pool: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], ahead: int
) -> Generator[Result, None, None]:
    """Apply a function to tasks in the workers of a pool, up to `ahead` before the results are asked for, in order."""
    futures: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            futures.append(pool.submit(function, task))
            if len(futures) > ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _ray_map(num_proc: int, address: str | None) -> Iterator[OrderedMap]:
    with ray_cluster(address, num_proc):
        import ray.data

        logging.getLogger('ray.data').setLevel(logging.ERROR)  # else it prints its execution plans
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        with ExitStack() as running:  # tasks end before the connection does
            running.callback(_join_threads)
            yield lambda function, tasks: running.enter_context(closing(_map_with_ray_data(function, tasks)))


def _join_threads() -> None:
    """Wait for the threads of Ray Data, which outlive a cancelled map and kill a process that has disconnected."""
    for thread in threading.enumerate():
        if thread.name.startswith(('StreamingExecutor', 'ray-data-metadata-prefetch', 'iter_threaded')):
            thread.join(timeout=60)


def _map_with_ray_data(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    import ray.data

    items = [{'task': pickle.dumps(task)} for task in tasks]
    if not items:
        return
    failure: InputError | None = None
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(_RayTask(function)).iter_rows():
        # sent by our own workers
        result, failure = pickle.loads(row['result'])  # noqa: S301
        if failure is not None:
            break  # ending the loop cancels the other tasks
        yield result
    if failure is not None:
        raise failure


class _RayTask:
    """Apply a function to a pickled task; return an `InputError`, which Ray would treat as a failure of the node."""

    def __init__(self, function: Callable[[Task], Result]) -> None:
        self.function = function

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        outcome: tuple[object, InputError | None]
        try:
            # sent by our own driver
            outcome = (self.function(pickle.loads(row['task'])), None)  # noqa: S301
        except InputError as error:
            outcome = (None, error)
        return {'result': pickle.dumps(outcome)}
