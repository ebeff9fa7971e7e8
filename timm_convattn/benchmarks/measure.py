"""Two things measured side by side: in one process, one thread, alternating, on a machine that does nothing else."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

__all__ = ['Growth', 'Pair', 'Row', 'compare', 'growth', 'peak_memory', 'seconds_of']

Pair = tuple[Callable[[], Any], Callable[[], Any]]


class Row(NamedTuple):
    """One comparison."""

    case: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    """ours / theirs, of the medians"""
    spread: float = 0.0
    """Half the distance between the quartiles of the ratios of neighbouring measurements."""


class Growth(NamedTuple):
    """How a measurement grows with a size: like size to the power of the exponent."""

    case: str
    of: str
    """What the sizes count."""
    sizes: list[float]
    values: list[float]
    unit: str
    exponent: float


def compare(case: str, peer: str, make: Callable[[], Pair], seconds: float = 4.0, rounds: int = 5, per: int = 1) -> Row:
    """Time two functions in turns.

    Args:
        case: What is compared.
        peer: What it is compared with.
        make: Makes both functions, ours first. Every round makes them anew: where memory comes to lie, and whether
            the allocator has to ask the system for it, moves times as much as the code does.
        seconds: For how long, all rounds together.
        rounds: How often they are made.
        per: How many things each call does.

    Returns:
        Medians in milliseconds for each thing, their ratio, and how much neighbouring ratios differ.
    """
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        ours, theirs = make()
        ours(), theirs()  # allocate, and choose kernels
        started, least = time.perf_counter(), len(times) + 2
        while len(times) < least or time.perf_counter() - started < seconds / rounds:
            times.append((seconds_of(ours), seconds_of(theirs)))
    return row_of(case, peer, times, 1e3 / per, 'ms')


def row_of(case: str, peer: str, times: Sequence[tuple[float, float]], scale: float, unit: str) -> Row:
    """Sum up neighbouring measurements of two things."""
    a, b = (statistics.median(column) * scale for column in zip(*times, strict=True))
    quartiles = statistics.quantiles([mine / other for mine, other in times], n=4)
    return Row(case, peer, round(a, 4), round(b, 4), unit, round(a / b, 4), round((quartiles[2] - quartiles[0]) / 2, 4))


def seconds_of(function: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def growth(case: str, of: str, unit: str, values: dict[float, float]) -> Growth:
    """Fit the exponent: the slope of the line through the logarithms of sizes and values.

    Args:
        case: What was measured.
        of: What the sizes count.
        unit: Unit of the values.
        values: The value of each size.
    """
    logs = [(math.log(size), math.log(value)) for size, value in values.items()]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
    return Growth(case, of, list(values), [round(value, 6) for value in values.values()], unit, round(slope, 4))


def peak_memory(function: Callable[[], Any]) -> int:
    """Measure by how many bytes tensors on the CPU grow while a function runs, at the most.

    Whatever torch allocates counts, inside of operators too; what there was before does not.
    """
    function()  # what is allocated once and kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    now = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == '[memory]':
            now += event.nbytes()
            most = max(most, now)
    return most
