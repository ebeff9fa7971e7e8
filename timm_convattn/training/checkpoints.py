"""Checkpoints of a run: written beside and renamed, the newest few kept.

A checkpoint holds what accelerate saves (weights, optimizer, gradient scaler, random states), the averaged weights
where there are any, and `progress.json`, which is written last: a folder without it is no checkpoint.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch.nn as nn
from accelerate import Accelerator

from timm_convattn.errors import InputError

__all__ = ['Progress', 'find_checkpoints', 'load_checkpoint', 'save_checkpoint']


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the next epoch that are done."""
    step: int = 0
    """Optimizer steps so far."""
    loss_sum: float = 0.0
    """Sum of the losses of those batches."""
    seconds: float = 0.0
    """Time spent training so far, evaluation included."""
    waited: float = 0.0
    """Time of it that training waited for crops."""


def find_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints in a folder, the oldest first."""
    return sorted(path.parent for path in folder.glob('step_*/progress.json'))


def save_checkpoint(
    accelerator: Accelerator, folder: Path, progress: Progress, averaged: nn.Module | None, keep: int
) -> Path:
    """Write a checkpoint and remove the oldest beyond `keep`; every process has to call it.

    Args:
        accelerator: Which prepared the model and the optimizer.
        folder: The folder of the run's checkpoints.
        progress: How far the run has come.
        averaged: The averaged weights, if there are any.
        keep: How many checkpoints may stay.

    Returns:
        The checkpoint's folder.
    """
    path = folder / f'step_{progress.step:08d}'
    beside = folder / f'.{path.name}'
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)  # what a process that died left there
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if averaged is not None:
            weights = {name: tensor.contiguous() for name, tensor in averaged.state_dict().items()}
            safetensors.torch.save_file(weights, beside / 'averaged.safetensors')
        (beside / 'progress.json').write_text(json.dumps(asdict(progress)))
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
        for old in find_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return path


def load_checkpoint(accelerator: Accelerator, path: Path, averaged: nn.Module | None) -> Progress:
    """Bring model, optimizer, random states and averaged weights back to where a checkpoint was written.

    Raises:
        InputError: If the checkpoint cannot be read.
    """
    try:
        progress = Progress(**json.loads((path / 'progress.json').read_text()))
        accelerator.load_state(str(path))
        if averaged is not None:
            averaged.load_state_dict(safetensors.torch.load_file(path / 'averaged.safetensors'))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
        raise InputError(
            f'The checkpoint {path} cannot be read ({error}). Remove it to go on from the one before.'
        ) from error
    return progress
