"""Two functions measured alternately, in one process and one thread, on an otherwise idle machine."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile

from timm_convattn.results import Comparison, Growth

__all__ = ['Measurements', 'Pair', 'compare', 'compare_values', 'fit_growth', 'peak_memory', 'seconds_of', 'summarize']

Pair = tuple[Callable[[], Any], Callable[[], Any]]
Measurements = tuple[list[Comparison], list[Growth]]


def compare(
    case: str, peer: str, make: Callable[[], Pair], seconds: float = 4.0, rounds: int = 5, per: int = 1
) -> Comparison:
    """Time two functions alternately.

    Args:
        case: What is compared.
        peer: What it is compared with.
        make: Returns both functions, ours first. Called again in each round, because memory layout and allocator state
            affect times as much as the code does.
        seconds: Duration of all rounds together.
        rounds: Number of rounds.
        per: Number of items that each call processes.

    Returns:
        Medians in milliseconds per item, their ratio, and the spread of the ratios of neighbouring measurements.
    """
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        ours, theirs = make()
        ours(), theirs()  # allocate, and select kernels
        started, minimum = time.perf_counter(), len(times) + 2
        while len(times) < minimum or time.perf_counter() - started < seconds / rounds:
            times.append((seconds_of(ours), seconds_of(theirs)))
    return summarize(case, peer, times, 1e3 / per, 'ms')


def summarize(case: str, peer: str, values: Sequence[tuple[float, float]], scale: float, unit: str) -> Comparison:
    """Summarize neighbouring measurements, ours and theirs."""
    ours, theirs = (statistics.median(column) * scale for column in zip(*values, strict=True))
    quartiles = statistics.quantiles([mine / other for mine, other in values], n=4)
    return compare_values(case, peer, ours, theirs, unit, spread=round((quartiles[2] - quartiles[0]) / 2, 4))


def compare_values(case: str, peer: str, ours: float, theirs: float, unit: str, spread: float = 0.0) -> Comparison:
    """Compare two values, rounded to four digits."""
    return Comparison(case, peer, round(ours, 4), round(theirs, 4), unit, round(ours / theirs, 4), spread)


def seconds_of(function: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def fit_growth(case: str, of: str, unit: str, values: dict[float, float]) -> Growth:
    """Fit a power law: the slope of the line through the logarithms of sizes and values.

    Args:
        case: What was measured.
        of: What the sizes count.
        unit: Unit of the values.
        values: Size -> value.
    """
    logs = [(math.log(size), math.log(value)) for size, value in values.items()]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
    return Growth(case, of, list(values), [round(value, 6) for value in values.values()], unit, round(slope, 4))


def peak_memory(function: Callable[[], Any]) -> int:
    """Return by how many bytes CPU memory allocated by torch grows at most while a function runs."""
    function()  # allocate what stays allocated
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    now = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == '[memory]':
            now += event.nbytes()
            most = max(most, now)
    return most
