"""Count parameters and multiply-accumulates of every model of this package and of the backbones, for README's table.

Examples:
    python train_scripts/count_models.py --out hub_cards/results/models.json
"""

from pathlib import Path

import timm
import tyro

from timm_convattn.complexity import count_models
from timm_convattn.entry_point import entry_point
from timm_convattn.models import MODULES
from timm_convattn.results import write_results


def main(out: Path) -> None:
    """Count.

    Args:
        out: The results file to write (JSON).
    """
    ours = timm.list_models(module=MODULES)
    write_results(out, count_models([*ours, 'resnet18', 'resnet50']))
    print(f'{out}: {len(ours)} models of this package and two of timm')


if __name__ == '__main__':
    with entry_point():
        tyro.cli(main, description=__doc__)
