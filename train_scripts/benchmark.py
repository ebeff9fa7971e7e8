"""Measure this package beside its peers: ratios of two things in one process and one thread, on an idle machine.

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

from timm_convattn.benchmarks.attention import measure_attention
from timm_convattn.benchmarks.build import measure_build
from timm_convattn.benchmarks.input import measure_input
from timm_convattn.benchmarks.measure import Growth, Row
from timm_convattn.benchmarks.models import measure_models
from timm_convattn.doc_blocks import format_benchmark
from timm_convattn.entry_point import entry_point
from timm_convattn.environment import describe_environment
from timm_convattn.files import write_json


@dataclass(frozen=True)
class Args:
    """What to measure."""

    what: tyro.conf.Positional[Literal['attention', 'models', 'input', 'build']]
    """attention: the layer alone, against others that compute relative positions. models: a model against its
    backbone, and against itself compiled. input: training batches, against timm's loader. build: crops from frames,
    against decoding them."""
    out: Path | None = None
    """JSON file to write the rows to."""
    seconds: float = 4.0
    """How long each comparison takes, or a little longer."""
    data: str | None = None
    """For input: folder of crops. None: the embedded thermal scenes."""
    flir_root: Path | None = None
    """For build: folder in FLIR's layout. None: the embedded thermal scenes."""


def measure(args: Args) -> tuple[list[Row], list[Growth]]:
    """Measure what was asked for."""
    measurements: dict[str, Callable[[float], tuple[list[Row], list[Growth]]]] = {
        'attention': measure_attention,
        'models': measure_models,
        'input': functools.partial(measure_input, data=args.data),
        'build': functools.partial(measure_build, flir_root=args.flir_root),
    }
    return measurements[args.what](args.seconds)


def main(args: Args) -> None:
    """Measure, show and write."""
    torch.set_num_threads(1)
    rows, growths = measure(args)
    record = {
        'what': args.what,
        'rows': [row._asdict() for row in rows],
        'growth': [growth._asdict() for growth in growths],
        'environment': describe_environment(),
    }
    print(format_benchmark(record))
    if args.out is not None:
        write_json(args.out, record)


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
