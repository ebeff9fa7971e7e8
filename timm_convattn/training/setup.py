"""The parts of a run, built from its configuration: accelerator, splits, optimizer and loader."""

import copy
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
import torch.nn as nn
from accelerate import Accelerator, DistributedType
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch.utils.data import DataLoader

from timm_convattn.config import Config, DataConfig, TrainConfig
from timm_convattn.data.crop_images import CropImages, ResizeToPixels
from timm_convattn.data.samplers import BalancedSampler, EpochSampler
from timm_convattn.data.sources import class_names_of, open_crops
from timm_convattn.data.splits import hold_out_frames
from timm_convattn.data.store import StoredCrops, identity_collate, open_store
from timm_convattn.data.streams import CropStream, StreamedImages, open_stream
from timm_convattn.errors import InputError
from timm_convattn.layers.conv_attn import added_parts
from timm_convattn.models.config import Preprocessing

__all__ = ['Splits', 'check_batches_of_one', 'create_accelerator', 'create_optimizer', 'open_splits', 'training_loader']


def create_accelerator(config: Config, folder: Path) -> Accelerator:
    """Create the accelerator of a run: its processes, devices, precision and tracker.

    Raises:
        InputError: If the tracker is not installed, or the devices lack something that the configuration needs.
    """
    tracker = None if config.run.tracker == 'none' else config.run.tracker
    if tracker is not None and importlib.util.find_spec(tracker) is None:  # accelerate would ignore it silently
        raise InputError(f"{tracker} is not installed: pip install 'timm-convattn[track]', or use --tracker none.")
    os.environ.setdefault('TRACKIO_DIR', str(folder / 'trackio'))
    try:
        accelerator = Accelerator(
            mixed_precision=config.run.mixed_precision,
            gradient_accumulation_steps=config.train.gradient_accumulation,
            log_with=tracker,
            project_dir=folder,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f'accelerate cannot start: {error}') from error
    on_cpu = accelerator.device.type == 'cpu'
    if accelerator.mixed_precision == 'fp16' and on_cpu:  # accelerate would train in float32
        raise InputError('fp16 needs a GPU, this run has a cpu. Use --mixed-precision bf16, or no.')
    if config.train.sync_batchnorm and accelerator.num_processes > 1 and on_cpu:
        raise InputError('torch synchronizes batch norms on GPUs only: leave out --sync-batchnorm.')
    if config.train.ema and accelerator.distributed_type == DistributedType.FSDP:
        raise InputError('With FSDP no process has all weights, so they cannot be averaged: use --no-ema.')
    return accelerator


@dataclass(frozen=True)
class Splits:
    """The crops of a run, by their use."""

    train: datasets.Dataset | CropStream
    validation: datasets.Dataset
    held_out: datasets.Dataset | None
    """Crops that are not trained on, for choosing rejection thresholds."""
    class_names: list[str]
    """Names of the classes, in the order of the labels."""

    def class_counts(self) -> dict[str, int]:
        """Count the training crops of each class."""
        labels = self.train.labels if isinstance(self.train, CropStream) else self.train['label'][:]
        counts = np.bincount(labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))


def open_splits(config: DataConfig, seed: int) -> Splits:
    """Open the crops of a run; the seed chooses the training crops if their number is limited.

    Raises:
        InputError: If they cannot be opened, their classes differ, or no frames can be held out.
    """
    train: datasets.Dataset | CropStream
    if config.streaming:
        train, streamed = (open_stream(config.data, split, config.data_config) for split in ('train', 'validation'))
        validation = streamed.load()
    else:
        crops = open_crops(config.data, ('train', 'validation'), config.data_config)
        train, validation = crops['train'], crops['validation']
    class_names = class_names_of(validation)
    if class_names_of(train) != class_names:
        raise InputError('The splits train and validation have different classes.')
    held_out = None
    if config.hold_out:
        train, held_out = hold_out_frames(train, config.hold_out)
    return Splits(_limit(train, config.limit_train, seed), validation, held_out, class_names)


def _limit(crops: datasets.Dataset | CropStream, limit: int | None, seed: int) -> datasets.Dataset | CropStream:
    if limit is None or limit >= len(crops):
        return crops
    if isinstance(crops, CropStream):
        return crops.take(limit)
    return crops.select(np.sort(np.random.default_rng(seed).permutation(len(crops))[:limit]))


def check_batches_of_one(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Raise an `InputError` if a batch norm of a network finds a single value per channel in a batch of one crop."""
    try:
        copy.deepcopy(model).train()(torch.zeros(1, *input_size))
    except (AssertionError, ValueError) as error:
        raise InputError(f'The network cannot train on batches of one crop: {error}') from None


def create_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Create the optimizer of a model.

    Raises:
        InputError: If timm has no such optimizer, it refuses its arguments, or a learning rate is given for parts that
            the model does not have.
    """
    params = model if config.added_lr_scale == 1 else _scaled_groups(config, model)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            params, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
        )
    except (AssertionError, ValueError) as error:
        if 'not found in registry' in str(error):
            names = ', '.join(timm.optim.list_optimizers()[:12])
            raise InputError(f'There is no optimizer {config.optimizer!r}; timm has {names}, ...') from error
        raise InputError(
            f'The optimizer {config.optimizer!r} cannot be created with lr {config.lr}, momentum {config.momentum} and '
            f'weight_decay {config.weight_decay}: {error}. Change these, or use another --optimizer.'
        ) from error
    return optimizer


def _scaled_groups(config: TrainConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Group the parameters as timm does, by weight decay, and by whether the backbone has them."""
    added = tuple(added_parts(model))
    if not added:
        raise InputError(f'added_lr_scale is {config.added_lr_scale}, but the model has nothing beyond its backbone.')
    scaled = {parameter for name, parameter in model.named_parameters() if name.startswith(added)}
    undecayed: set[str] = getattr(model, 'no_weight_decay', set)()
    by_decay = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=undecayed)
    groups = [
        {**group, 'params': [each for each in group['params'] if (each in scaled) == is_scaled], 'lr_scale': scale}
        for is_scaled, scale in ((False, 1.0), (True, config.added_lr_scale))
        for group in by_decay
    ]
    return [group for group in groups if group['params']]


def training_loader(
    config: Config, crops: datasets.Dataset | CropStream, preprocessing: Preprocessing, num_processes: int
) -> tuple[DataLoader[Any], EpochSampler | StreamedImages]:
    """Create the loader of the training batches of each process.

    Returns:
        The loader of (images, labels, indices): (B, C, H, W) uint8, (B,), (B,); and the object whose `set_epoch`
        chooses the order of an epoch.

    Raises:
        InputError: If crops cannot be decoded, or the cache has no room.
    """
    channels, height, width = preprocessing['input_size']
    resize, seed = ResizeToPixels((height, width), preprocessing['interpolation']), config.run.seed
    images: StreamedImages | CropImages | StoredCrops
    order: EpochSampler | StreamedImages
    if isinstance(crops, CropStream):
        images = order = StreamedImages(crops, resize, channels, seed)
    else:
        if config.data.plain_input:
            images = CropImages(crops, resize, channels)
        else:
            images = open_store(crops, (height, width), preprocessing['interpolation'])
        balanced = config.train.sampling == 'balanced'
        order = BalancedSampler(crops['label'][:], seed) if balanced else EpochSampler(len(images), seed)
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=config.train.batch_size,
        sampler=order if isinstance(order, EpochSampler) else None,
        collate_fn=identity_collate if isinstance(images, StoredCrops) else None,
        num_workers=config.data.num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each epoch draws a number from the generator of dropout
        # batch norm cannot train on a last batch of one crop
        drop_last=len(images) >= config.train.batch_size * num_processes,
    )
    return loader, order
