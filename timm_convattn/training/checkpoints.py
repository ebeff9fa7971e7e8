"""Checkpoints of a run: written atomically, verified before they are loaded, the newest few kept.

A checkpoint holds what accelerate saves (weights, optimizer, gradient scaler, random states), the averaged weights if
there are any, and `progress.json`, which is written last: a folder without it is not a checkpoint. It holds the hashes
of all other files, so that damage is found before anything is loaded.
"""

import hashlib
import json
import random
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
    """Progress of a run."""

    epoch: int = 0
    """Complete epochs."""
    batch: int = 0
    """Batches done of the next epoch."""
    step: int = 0
    """Optimizer steps."""
    loss_sums: list[float] = field(default_factory=list)
    """Sum of their losses in each process; a single sum would be rounded in another way than without a break."""
    seconds: float = 0.0
    """Time of training and evaluation."""
    waited: float = 0.0
    """Part of it that training waited for crops, in seconds."""

    @property
    def name(self) -> str:
        """Name of its checkpoint; within a run, equal names mean equal states."""
        return f'epoch_{self.epoch:04d}_batch_{self.batch:06d}'


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first; they may be damaged."""
    return sorted((path.parent for path in folder.glob(f'epoch_*/{PROGRESS}')), key=_counts)


def _counts(path: Path) -> list[int]:
    # epoch and batch as numbers, because names do not sort from epoch 10,000 on
    return [int(part) for part in path.name.split('_') if part.isdecimal()]


def save_checkpoint(
    accelerator: Accelerator, folder: Path, progress: Progress, averaged: nn.Module | None, keep: int
) -> Path:
    """Write a checkpoint to a folder of them and keep the newest ones only; every process has to call it.

    Returns:
        The folder of the checkpoint.

    Raises:
        InputError: If it cannot be written, as on a full disk; earlier checkpoints are kept.
    """
    path = folder / progress.name
    if (path / PROGRESS).is_file():  # of the same state
        return path
    temporary = folder / f'.{path.name}'
    if accelerator.is_main_process:
        for left in folder.glob('.epoch_*'):  # by a process that died
            shutil.rmtree(left, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _complete(temporary, path, averaged, progress, accelerator.num_processes)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        free = describe_free_space(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        before = find_checkpoints(folder)
        resume = f'Make room, then resume from {before[-1]}.' if before else 'There is no earlier checkpoint.'
        raise InputError(f'The checkpoint {path} could not be written ({error}); {free}. {resume}') from error
    if accelerator.is_main_process:
        for old in find_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return path


def _complete(temporary: Path, path: Path, averaged: nn.Module | None, progress: Progress, num_processes: int) -> None:
    """Add the averaged weights and the hashes to what accelerate wrote, and rename the folder."""
    if averaged is not None:
        weights = {name: tensor.contiguous() for name, tensor in averaged.state_dict().items()}
        safetensors.torch.save_file(weights, temporary / AVERAGED)
    files = sorted(file for file in temporary.rglob('*') if file.is_file())
    hashes = {str(file.relative_to(temporary)): _hash(file) for file in files}
    content = {'progress': asdict(progress), 'processes': num_processes, 'sha256': hashes}
    (temporary / PROGRESS).write_text(json.dumps({**content, 'own_sha256': _own_hash(content)}, indent=2))
    sync_folder(temporary)
    shutil.rmtree(path, ignore_errors=True)  # a checkpoint without progress.json
    temporary.rename(path)
    sync(path.parent)  # before an older checkpoint is removed


def _own_hash(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def newest_checkpoint(accelerator: Accelerator, folder: Path) -> Path | None:
    """Find the newest intact checkpoint, None if there are none; every process has to call it, and all get the same.

    Newer damaged ones are renamed, with a warning.

    Raises:
        InputError: If all checkpoints are damaged.
    """
    newest: Path | None = None
    damaged: list[str] = []
    if accelerator.is_main_process:
        newest = _newest_intact(folder)
        damaged = sorted(path.name for path in folder.glob('damaged_*'))
    newest, damaged = broadcast_object_list([newest, damaged])
    if newest is None and damaged:
        raise InputError(
            f'All checkpoints in {folder} are damaged: {", ".join(damaged)}. Remove that folder to start again.'
        )
    return newest


def _newest_intact(folder: Path) -> Path | None:
    for path in reversed(find_checkpoints(folder)):
        damage = _damage(path)
        if damage is None:
            return path
        renamed = path.with_name(f'damaged_{path.name}')
        shutil.rmtree(renamed, ignore_errors=True)
        path.rename(renamed)
        print(f'warning: the checkpoint {path} is damaged ({damage}), it was renamed to {renamed}', file=sys.stderr)
    return None


def _damage(path: Path) -> str | None:
    """Return what is damaged in a checkpoint, None if nothing is."""
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
    """Raise a `ValueError` if accelerate could not set the random states of a process, which it ignores silently."""
    try:
        states = load(path)  # with weights_only, so that no pickled code runs
        random.Random().setstate(states['random_state'])  # noqa: S311
        np.random.RandomState().set_state(states['numpy_random_seed'])
        torch.Generator().set_state(states['torch_manual_seed'])
    except Exception as error:  # untrusted files raise errors of any type
        raise ValueError(f'{path.name}: {type(error).__name__}') from error


def load_checkpoint(accelerator: Accelerator, path: Path, model: nn.Module, averaged: nn.Module | None) -> Progress:
    """Restore the prepared model, optimizer, random states and averaged weights of a checkpoint.

    Raises:
        InputError: If the checkpoint is of another network or number of processes, or holds non-finite weights.
    """
    content = json.loads((path / PROGRESS).read_text())
    if content['processes'] != accelerator.num_processes:
        raise InputError(
            f'The run has {content["processes"]} process(es), this call has {accelerator.num_processes}, which would '
            f'change the size of batches. Use accelerate launch --num_processes {content["processes"]}.'
        )
    try:
        accelerator.load_state(str(path))
        if averaged is not None:
            averaged.load_state_dict(safetensors.torch.load_file(path / AVERAGED))
        for name, loaded in ((WEIGHTS, model), (AVERAGED, averaged)):
            if loaded is not None and (path / name).is_file():  # FSDP writes its weights to other files
                check_weights(path / name, loaded, name)
        return Progress(**content['progress'])
    except Exception as error:  # torch raises errors of many types on foreign files
        raise InputError(f'The checkpoint {path} does not match this run: {error}') from error
