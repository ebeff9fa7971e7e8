"""finetune.py, whose second process gets SIGTERM at its step STOP_AT."""

import os
import signal

from finetune_itself import run_finetune

from timm_convattn.training import loop

rate_of_step = loop.learning_rate


def learning_rate(config, step, steps_per_epoch):
    """Called by the loop at each step."""
    if os.environ['RANK'] == '1' and step == int(os.environ['STOP_AT']):
        os.kill(os.getpid(), signal.SIGTERM)
    return rate_of_step(config, step, steps_per_epoch)


loop.learning_rate = learning_rate
run_finetune()
