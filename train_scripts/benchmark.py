"""Measure this package against peers, alternately in one process and one thread. The machine should be idle.

Examples:
    python train_scripts/benchmark.py attention --out hub_cards/results/attention.json
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.attention import measure_attention
from benchmarks.build import measure_build
from benchmarks.input import measure_input
from benchmarks.measure import Measurements
from benchmarks.models import measure_models
from doc_blocks import format_benchmark
from timm_convattn.entry_point import entry_point
from timm_convattn.environment import describe_environment
from timm_convattn.results import BenchmarkResults, write_results


@dataclass(frozen=True)
class Args:
    """What to measure."""

    what: tyro.conf.Positional[Literal['attention', 'models', 'input', 'build']]
    """attention: the layer alone, against others that compute relative positions. models: a model against its
    backbone, and against itself compiled. input: training batches, against timm's loader. build: crops from frames,
    against decoding them."""
    out: Path | None = None
    """JSON file to write the results to."""
    seconds: float = 4.0
    """Duration of each comparison, which may take a little longer."""
    data: str | None = None
    """For input: folder of crops. None: the embedded thermal scenes."""
    flir_root: Path | None = None
    """For build: folder in FLIR's layout. None: the embedded thermal scenes."""


def measure(args: Args) -> Measurements:
    """Run the benchmark."""
    measurements: dict[str, Callable[[float], Measurements]] = {
        'attention': measure_attention,
        'models': measure_models,
        'input': functools.partial(measure_input, data=args.data),
        'build': functools.partial(measure_build, flir_root=args.flir_root),
    }
    return measurements[args.what](args.seconds)


def main(args: Args) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    comparisons, growth = measure(args)
    environment = describe_environment()
    results = BenchmarkResults(args.what, comparisons, growth, environment)
    print(format_benchmark(results))
    if args.out is not None:
        write_results(args.out, results)


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
