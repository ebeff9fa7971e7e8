"""Count parameters and multiply-accumulates of every model of this package.

`--out` is the results file for README's table, which also holds the backbones. The table that the command line lists
and shows without building a model is written to `timm_convattn_cli/models.json`.

Examples:
    python train_scripts/count_models.py --out hub_cards/results/models.json
"""

import json
from pathlib import Path

import timm
import tyro

from timm_convattn.complexity import count_models
from timm_convattn.entry_point import entry_point
from timm_convattn.files import write_text
from timm_convattn.models import MODULES
from timm_convattn.results import write_results
from timm_convattn_cli.models import TABLE, build_description, weights_source


def main(out: Path) -> None:
    """Count.

    Args:
        out: The results file to write (JSON).
    """
    ours = timm.list_models(module=MODULES)
    write_results(out, count_models([*ours, 'resnet18', 'resnet50']))
    write_text(TABLE, format_models(ours))
    print(f'{out}: {len(ours)} models of this package and two of timm\n{TABLE}: the models of this package')


def format_models(names: list[str]) -> str:
    """Return the command line's table of models: JSON, one model a line."""
    entries = {name: {'description': build_description(name), 'weights': weights_source(name)} for name in names}
    return '{\n' + ',\n'.join(f'{json.dumps(name)}: {json.dumps(entry)}' for name, entry in entries.items()) + '\n}\n'


if __name__ == '__main__':
    with entry_point():
        tyro.cli(main, description=__doc__)
