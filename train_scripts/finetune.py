"""Fine-tune a timm model on crops, evaluate it and leave a run folder.

Examples:
    accelerate launch train_scripts/finetune.py
    accelerate launch train_scripts/finetune.py --config train_scripts/recipes/aresnet50_paper.yaml --data crops/flir
    accelerate launch train_scripts/finetune.py --resume runs/NAME
    accelerate launch train_scripts/finetune.py --data crops/four_class --push-to-hub you/aresnet18_relmha.flir4
"""

import os
import sys

# before torch is loaded: threads that wait for each other do not spin, so that others can use their cores meanwhile
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from accelerate import PartialState

from timm_convattn.entry_point import entry_point
from timm_convattn.training.finetune import finetune
from timm_convattn.training.run_folder import parse_run
from timm_convattn.training.stop import Interrupted


def main(args: list[str]) -> None:
    """Run the command line; without options, the quickstart."""
    finetune(parse_run(args, description=__doc__))


if __name__ == '__main__':
    with entry_point():
        try:
            main(sys.argv[1:])
        except Interrupted as stopped:
            if PartialState().is_main_process:
                print(stopped, file=sys.stderr)
            sys.exit(stopped.exit_code)
