"""finetune.py, whose second process gets SIGTERM at its step STOP_AT."""

import os
import runpy
import signal
import sys
from pathlib import Path

from timm_convattn.training import loop

rate_of_step = loop.learning_rate


def learning_rate(config, step, steps_per_epoch):
    """What the loop asks for at each step."""
    if os.environ['RANK'] == '1' and step == int(os.environ['STOP_AT']):
        os.kill(os.getpid(), signal.SIGTERM)
    return rate_of_step(config, step, steps_per_epoch)


loop.learning_rate = learning_rate
script = Path(__file__).parents[2] / 'train_scripts' / 'finetune.py'
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name='__main__')
