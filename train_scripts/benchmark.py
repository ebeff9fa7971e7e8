"""Measure this package beside its peers, on a machine that does nothing else.

python train_scripts/benchmark.py attention --out hub_cards/results/attention.json
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
import tyro

from timm_convattn.benchmarks import attention_rows
from timm_convattn.errors import exit_on_input_error
from timm_convattn.files import write_json
from timm_convattn.report import format_table

MEASUREMENTS = {'attention': attention_rows}


@dataclass(frozen=True)
class Args:
    """What to measure."""

    what: tyro.conf.Positional[Literal['attention']]
    """attention: the layer alone, against timm's and the usual way to write it."""
    out: Path | None = None
    """JSON file to write the rows to."""
    seconds: float = 4.0
    """How long each comparison takes at least."""


def main(args: Args) -> None:
    """Measure, show and write."""
    torch.set_num_threads(1)
    rows = [row._asdict() for row in MEASUREMENTS[args.what](seconds=args.seconds)]
    header = ['case', 'peer', 'ours', 'theirs', 'unit', 'ratio', 'spread']
    print(format_table([header, *([str(row[key]) for key in header] for row in rows)]))
    if args.out is not None:
        versions = {package: version(package) for package in ('timm-convattn', 'timm', 'torch')}
        write_json(args.out, {'threads': 1, 'versions': versions, 'rows': rows})


if __name__ == '__main__':
    with exit_on_input_error():
        main(tyro.cli(Args, description=__doc__))
