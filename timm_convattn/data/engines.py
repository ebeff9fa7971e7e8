"""Who decodes the frames: this process, some processes of this machine, or the nodes of a Ray cluster.

All three are a `map` that gives its results in the order of its tasks, with a bounded number of them under way. So what
is made of the results does not depend on who did the work.
"""

import gc
import logging
import multiprocessing
import pickle  # noqa: TID251  # Ray's processes send each other frames and rows
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Literal

from timm_convattn.errors import InputError
from timm_convattn.ray_cluster import ray_cluster

__all__ = ['Engine', 'ordered_map']

Engine = Literal['local', 'ray']
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@contextmanager
def ordered_map(engine: Engine, num_proc: int, address: str | None) -> Iterator[Map]:
    """Give a `map` that works in parallel and keeps the order.

    Args:
        engine: 'local' for processes of this machine, 'ray' for a cluster.
        num_proc: Processes. One works in this process.
        address: Of the Ray cluster, as `ray.init` takes it. None: one of `num_proc` processors on this machine.

    Raises:
        InputError: If there is an address and no cluster to be had there, or Ray is not installed.
    """
    if engine == 'ray':
        with _ray(num_proc, address) as ray_map:
            yield ray_map
    elif address is not None:
        raise InputError(f'The address {address} is that of a Ray cluster. Say --engine ray, too.')
    elif num_proc == 1:
        yield map
    else:
        # Forked, where that is safe, which it is not beside Ray's threads: a fresh process would import for longer than
        # most folders take. What was there before the fork is garbage to nobody; to look through it copies its pages.
        context = multiprocessing.get_context(
            'fork' if sys.platform == 'linux' and 'ray' not in sys.modules else 'spawn'
        )
        with ProcessPoolExecutor(num_proc, context, initializer=gc.freeze) as pool:
            yield lambda function, tasks: _submit_in_order(pool, function, tasks, under_way=2 * num_proc)


def _submit_in_order(
    pool: ProcessPoolExecutor, function: Callable[[Any], Any], tasks: Iterable[Any], under_way: int
) -> Iterator[Any]:
    futures: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            futures.append(pool.submit(function, task))
            if len(futures) > under_way:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _ray(num_proc: int, address: str | None) -> Iterator[Map]:
    """Give a `map` of Ray Data."""
    with ray_cluster(address, num_proc):
        import ray.data

        logging.getLogger('ray.data').setLevel(logging.ERROR)  # it tells its plans otherwise
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        with ExitStack() as running:  # what still runs ends before the connection does
            running.callback(_join_threads)
            yield lambda function, tasks: running.enter_context(closing(_map_with_ray_data(function, tasks)))


def _join_threads() -> None:
    """Wait for the threads of Ray Data, which it lets go of soon after their work is no longer wanted.

    One that used the connection when it is closed would end this process.
    """
    for thread in threading.enumerate():
        if thread.name.startswith(('StreamingExecutor', 'ray-data-metadata-prefetch', 'iter_threaded')):
            thread.join(timeout=60)


def _map_with_ray_data(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[Any, None, None]:
    import ray.data

    items = [{'task': pickle.dumps(task)} for task in tasks]
    if not items:
        return
    failure: InputError | None = None
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(_Run(function)).iter_rows():
        # what our own workers sent
        result, failure = pickle.loads(row['result'])  # noqa: S301
        if failure is not None:
            break  # the loop lets go of what still runs
        yield result
    if failure is not None:
        raise failure


class _Run:
    """Call a function on a pickled task; a mistake in the input comes back as what it is, no failure of a node."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        outcome: tuple[Any, InputError | None]
        try:
            # what our own driver sent
            outcome = (self.function(pickle.loads(row['task'])), None)  # noqa: S301
        except InputError as error:
            outcome = (None, error)
        return {'result': pickle.dumps(outcome)}
