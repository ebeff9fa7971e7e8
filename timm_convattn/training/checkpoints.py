"""Checkpoints of a run: written beside and renamed, checked before they are used, the newest few kept.

A checkpoint holds what accelerate saves (weights, optimizer, gradient scaler, random states), the averaged weights
where there are any, and `progress.json`, which is written last: a folder without it is no checkpoint. It names the hash
of every other file, so that a damaged checkpoint is known before anything of it is loaded.
"""

import hashlib
import json
import random
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn as nn
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, load

from timm_convattn.errors import InputError
from timm_convattn.files import describe_free_space, sync, sync_folder
from timm_convattn.hub.loading import check_weights

__all__ = ['Progress', 'find_checkpoints', 'load_checkpoint', 'newest_checkpoint', 'save_checkpoint']

PROGRESS, WEIGHTS, AVERAGED = 'progress.json', 'model.safetensors', 'averaged.safetensors'


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the next epoch that are done."""
    step: int = 0
    """Optimizer steps so far."""
    loss_sums: list[float] = field(default_factory=list)
    """Sum of the losses of those batches in each process, apart so that a resumed sum is rounded as a whole one is."""
    seconds: float = 0.0
    """Time spent training so far, evaluation included."""
    waited: float = 0.0
    """Time of it that training waited for crops."""

    @property
    def name(self) -> str:
        """Name the checkpoint of it. The same name always stands for the same state of a run."""
        return f'epoch_{self.epoch:04d}_batch_{self.batch:06d}'


def find_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints in a folder, the oldest first; whether they are damaged is not looked at."""
    return sorted((path.parent for path in folder.glob(f'epoch_*/{PROGRESS}')), key=_counts)


def _counts(path: Path) -> list[int]:
    """Give the numbers in the name of a checkpoint, which have more digits from epoch 10,000 on."""
    return [int(part) for part in path.name.split('_') if part.isdecimal()]


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

    Raises:
        InputError: If it cannot be written, as on a full disk; the checkpoints before it are still there.
    """
    path = folder / progress.name
    if (path / PROGRESS).is_file():  # of this very state
        return path
    beside = folder / f'.{path.name}'
    if accelerator.is_main_process:
        for left in folder.glob('.epoch_*'):  # what a process that died left there
            shutil.rmtree(left, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(beside))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if averaged is not None:
                weights = {name: tensor.contiguous() for name, tensor in averaged.state_dict().items()}
                safetensors.torch.save_file(weights, beside / AVERAGED)
            _finish(beside, progress, accelerator.num_processes)
            sync_folder(beside)
            shutil.rmtree(path, ignore_errors=True)  # one that lost its progress.json
            beside.rename(path)
            sync(folder)  # it lasts, before an older one goes
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        free = describe_free_space(folder)
        shutil.rmtree(beside, ignore_errors=True)
        before = find_checkpoints(folder)
        raise InputError(
            f'The checkpoint {path} could not be written ({error}); {free}. '
            + (f'The run can go on from {before[-1]}, once there is room.' if before else 'There is none before it.')
        ) from error
    if accelerator.is_main_process:
        for old in find_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return path


def _finish(folder: Path, progress: Progress, num_processes: int) -> None:
    """Write what makes a folder a checkpoint."""
    hashes = {str(path.relative_to(folder)): _hash(path) for path in sorted(folder.rglob('*')) if path.is_file()}
    content = {'progress': asdict(progress), 'processes': num_processes, 'sha256': hashes}
    (folder / PROGRESS).write_text(json.dumps({**content, 'own_sha256': _own_hash(content)}, indent=2))


def _own_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def newest_checkpoint(accelerator: Accelerator, folder: Path) -> Path | None:
    """Find the newest checkpoint that is not damaged; every process has to call it, and all get the same.

    Damaged ones that are newer are moved aside, with a warning.

    Returns:
        Its folder, or None if there are no checkpoints.

    Raises:
        InputError: If there are checkpoints, but all are damaged.
    """
    found: list[str | None] = [None]
    if accelerator.is_main_process:
        found = [_newest_good(folder)]
    chosen = broadcast_object_list(found)[0]
    if chosen == '':
        raise InputError(
            f'All checkpoints in {folder} are damaged: {", ".join(sorted(p.name for p in folder.glob("damaged_*")))}. '
            'Remove that folder to begin the run anew.'
        )
    return None if chosen is None else Path(chosen)


def _newest_good(folder: Path) -> str | None:
    """Give the newest good checkpoint, '' if all that there are is damaged, None where nothing is."""
    for path in reversed(find_checkpoints(folder)):
        damage = _damage(path)
        if damage is None:
            return str(path)
        aside = path.with_name(f'damaged_{path.name}')
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        print(f'warning: the checkpoint {path} is damaged ({damage}), it lies in {aside} now', file=sys.stderr)
    return '' if any(folder.glob('damaged_*')) else None


def _damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint, None if nothing is."""
    try:
        content = json.loads((path / PROGRESS).read_text())
        if content.pop('own_sha256') != _own_hash(content):
            return f'{PROGRESS} is not what was written'
        for name, wanted in content['sha256'].items():
            if not (path / name).is_file():
                return f'{name} is missing'
            if _hash(path / name) != wanted:
                return f'{name} is not what was written'
        for process in range(content['processes']):
            _check_random_states(path / f'random_states_{process}.pkl')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f'it cannot be read: {type(error).__name__}: {error}'
    return None


def _check_random_states(path: Path) -> None:
    """Fail where accelerate could not set the random states of a process: it would say nothing, and go on with others.

    Raises:
        ValueError: If they cannot be read without running what is pickled in them, or are no states.
    """
    try:
        states = load(path)  # weights_only
        random.Random().setstate(states['random_state'])  # noqa: S311
        np.random.RandomState().set_state(states['numpy_random_seed'])
        torch.Generator().set_state(states['torch_manual_seed'])
    except Exception as error:  # of a file from anywhere
        raise ValueError(f'of {path.name}, {type(error).__name__}') from error


def load_checkpoint(accelerator: Accelerator, path: Path, model: nn.Module, averaged: nn.Module | None) -> Progress:
    """Bring model, optimizer, random states and averaged weights back to where a checkpoint was written.

    Args:
        accelerator: Which prepared the model and the optimizer.
        path: The checkpoint's folder.
        model: The prepared model.
        averaged: The averaged weights, if there are any.

    Raises:
        InputError: If the checkpoint is one of another network or another number of processes, or its weights are no
            numbers.
    """
    content = json.loads((path / PROGRESS).read_text())
    if content['processes'] != accelerator.num_processes:
        raise InputError(
            f'The run was made by {content["processes"]} process(es), this is {accelerator.num_processes}: batches '
            f'would be of another size. Give accelerate launch --num_processes {content["processes"]}.'
        )
    try:
        accelerator.load_state(str(path))
        if averaged is not None:
            averaged.load_state_dict(safetensors.torch.load_file(path / AVERAGED))
        for name, loaded in ((WEIGHTS, model), (AVERAGED, averaged)):
            if loaded is not None and (path / name).is_file():  # FSDP writes its weights in a file of its own
                check_weights(path / name, loaded, name)
        return Progress(**content['progress'])
    except Exception as error:  # what torch says of foreign files is of many kinds
        raise InputError(f'The checkpoint {path} does not fit this run: {error}') from error
