"""The training loop: any number of processes, resumable at every step."""

import copy
import itertools
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn as nn
from accelerate import Accelerator, DistributedType
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.utils import ModelEmaV3, distribute_bn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from timm_convattn.config import Config, TrainConfig, flat
from timm_convattn.data.augment import Augment, Normalize
from timm_convattn.data.crop_images import CropImages, ResizeToPixels, unwrap_worker_errors
from timm_convattn.data.samplers import BalancedSampler, EpochSampler
from timm_convattn.data.store import StoredCrops, identity_collate, open_store
from timm_convattn.data.streams import StreamedImages
from timm_convattn.errors import InputError
from timm_convattn.files import write_text
from timm_convattn.layers import calibrate_norms
from timm_convattn.layers.conv_attn import added_parts
from timm_convattn.models.config import Preprocessing
from timm_convattn.training.checkpoints import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from timm_convattn.training.evaluation import evaluation_loader, predict, score
from timm_convattn.training.loss_watch import LossWatch
from timm_convattn.training.losses import create_loss
from timm_convattn.training.stop import Interrupted, StopSignals, stop_signals

__all__ = ['Training', 'learning_rate']


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Give the learning rate of a step (from 0): warmup, then the schedule over the steps that remain."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == 'cosine':
        share = (step - warmup) / max(config.epochs * steps_per_epoch - warmup, 1)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if config.schedule == 'inverse_time':
        return config.lr / (1 + config.lr_decay * (step - warmup))
    return config.lr


class Training:
    """The state of a run and its loop.

    Args:
        config: What to do.
        accelerator: Devices, processes, precision.
        model: The model, not yet prepared.
        crops: Splits `train`, which can be a stream, and `validation`.
        class_names: Names of the classes, in the order of the labels.
        data_config: How the model's input is made.
        folder: The run folder.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        model: nn.Module,
        crops: dict[str, Any],
        class_names: list[str],
        data_config: Preprocessing,
        folder: Path,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.class_names = class_names
        self.folder = folder
        self.progress = Progress()
        self.normalize = _create_normalize(config, data_config)
        optimizer = _create_optimizer(config.train, model)
        self.train_crops = _chosen_crops(config, crops['train'])
        with accelerator.local_main_process_first():  # one fills the store, if it is not there
            loader, self.sampler = _training_loader(config, self.train_crops, data_config, accelerator.num_processes)
        if min(config.train.batch_size, len(self.train_crops)) == 1:
            _check_batches_of_one(model, data_config)
        if (config.model.pretrained or config.model.init_from) and config.model.calibrate:
            self._calibrate(model, loader)
        validation = evaluation_loader(crops['validation'], data_config, num_workers=config.data.num_workers)
        if config.run.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if config.train.sync_batchnorm and accelerator.num_processes > 1:
            model = convert_sync_batchnorm(model)
        if config.run.compile:
            model.compile()
        # the warmup forgets the start: of the first variances of batch norms, which are 1, little is already too much
        self.averaged = ModelEmaV3(model, decay=config.train.ema_decay, use_warmup=True) if config.train.ema else None
        # FSDP takes the model itself to pieces
        self.whole = copy.deepcopy(model) if accelerator.distributed_type == DistributedType.FSDP else None
        self.model, self.optimizer, self.loader, self.validation = accelerator.prepare(
            model, optimizer, loader, validation
        )
        if self.averaged is not None:
            self.averaged.to(accelerator.device)
        self.steps_per_epoch = math.ceil(len(self.loader) / config.train.gradient_accumulation)
        counts = [] if config.data.streaming else list(self.class_counts().values())
        self.criterion = create_loss(config.train, counts).to(accelerator.device)
        self.watch = LossWatch(folder, accelerator.device)

    def run(self) -> None:
        """Train from where the run is to its last epoch."""
        self._resume()
        self._start_trackers()
        total = self.config.train.epochs * self.steps_per_epoch
        quiet = None if self.accelerator.is_main_process else True  # None: quiet where there is no terminal
        with (
            stop_signals(self.accelerator) as stop,
            tqdm(total=total, initial=self.progress.step, desc='Training', unit='step', disable=quiet) as bar,
        ):
            while self.progress.epoch < self.config.train.epochs:
                self._train_epoch(stop, bar)
                if not stop.noticed:
                    self._finish_epoch()
                if stop.noticed or stop.requested():
                    self._interrupt(stop)

    def class_counts(self) -> dict[str, int]:
        """Count the crops of each class that are trained on."""
        labels = self.train_crops.labels if self.config.data.streaming else self.train_crops['label'][:]
        counts = np.bincount(labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def weights(self) -> nn.Module:
        """Give the model with the weights to save: the averaged ones where there are any.

        Every process has to call it; where FSDP shares the weights out, only the main one gets them.
        """
        if self.whole is not None:
            gathered = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                self.whole.load_state_dict(gathered)
            return self.whole
        unwrapped: nn.Module = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return self._averaged_model() or unwrapped

    def _averaged_model(self) -> nn.Module | None:
        return None if self.averaged is None else self.averaged.module

    def _calibrate(self, model: nn.Module, loader: DataLoader[Any]) -> None:
        """Make the first step of a pretrained start find what the pretrained layers are used to, in every process."""
        device = self.accelerator.device
        batches = (
            self.normalize(pixels.to(device), indices.to(device), epoch=0)
            for pixels, _, indices in itertools.islice(loader, self.config.model.calibrate)
        )
        with unwrap_worker_errors():
            calibrate_norms(model.to(device), batches)

    def _train_epoch(self, stop: StopSignals, bar: Any) -> None:
        progress, accelerator, settings = self.progress, self.accelerator, self.config.train
        started = time.perf_counter() - progress.seconds
        loader = self.loader
        if progress.batch:
            loader = accelerator.skip_first_batches(loader, progress.batch)
        self.sampler.set_epoch(progress.epoch)
        loader.set_epoch(progress.epoch)  # accelerate's loader counts for itself, and tells the sampler its own count
        self.model.train()
        loss_sum = torch.zeros(1, device=accelerator.device)
        if progress.loss_sums:
            loss_sum += progress.loss_sums[accelerator.process_index]
        for pixels, labels, indices in self._timed(loader):
            images = self.normalize(pixels, indices, progress.epoch)
            with accelerator.accumulate(self.model):
                loss = self.criterion(self.model(images), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    if settings.clip_grad is not None:
                        accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_grad)
                    self._set_learning_rate()
                self.optimizer.step()
                self.optimizer.zero_grad()
            loss_sum += loss.detach()
            self.watch.add(loss, indices, progress.step, self.optimizer.param_groups[0]['lr'])
            progress.batch += 1
            if accelerator.sync_gradients:
                progress.step += 1
                if self.averaged is not None:
                    self.averaged.update(accelerator.unwrap_model(self.model), step=progress.step)
                bar.update()
                if stop.requested():
                    break
        progress.loss_sums = accelerator.gather(loss_sum).tolist()
        progress.seconds = time.perf_counter() - started
        self.watch.look()

    def _timed(self, loader: Any) -> Iterator[Any]:
        """Give the batches of a loader, and sum up the time that they keep the training waiting."""
        batches = iter(loader)
        while True:
            started = time.perf_counter()
            with unwrap_worker_errors():
                batch = next(batches, None)
            self.progress.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _finish_epoch(self) -> None:
        """Evaluate, log and save, and turn to the next epoch."""
        progress, started = self.progress, time.perf_counter()
        self._share_statistics()
        progress.epoch += 1
        last = progress.epoch == self.config.train.epochs
        validated = self._validate() if last or progress.epoch % self.config.run.evaluate_every == 0 else {}
        progress.seconds += time.perf_counter() - started
        entry = {
            'epoch': progress.epoch,
            'step': progress.step,
            'learning_rate': self.optimizer.param_groups[0]['lr'],
            'train_loss': sum(progress.loss_sums) / len(progress.loss_sums) / progress.batch,
            **validated,
            'seconds': round(progress.seconds, 2),
            'waited_for_crops': round(progress.waited, 3),
        }
        progress.batch, progress.loss_sums = 0, []
        self._log(entry)
        if last or progress.epoch % self.config.run.checkpoint_every == 0:
            self._save()

    def _share_statistics(self) -> None:
        """Give every process the main one's statistics of batch norms: each has seen crops of its own."""
        if self.accelerator.num_processes > 1:
            for model in filter(None, (self.accelerator.unwrap_model(self.model), self._averaged_model())):
                distribute_bn(model, self.accelerator.num_processes, reduce=False)

    def _validate(self) -> dict[str, float]:
        model = self._averaged_model() or self.model
        metrics = score(predict(model, self.validation, self.accelerator, self.class_names))
        return {
            'validation_loss': metrics['loss'],
            **{key: metrics[key] for key in ('accuracy', 'macro_f1', 'weighted_f1')},
        }

    def _log(self, entry: dict[str, Any]) -> None:
        self.accelerator.log({key: value for key, value in entry.items() if key != 'step'}, step=entry['step'])
        if not self.accelerator.is_main_process:
            return
        with (self.folder / 'log.jsonl').open('a') as log:
            log.write(json.dumps(entry) + '\n')
        validated = (
            f'validation: loss {entry["validation_loss"]:.4f}, accuracy {entry["accuracy"]:.4f}, '
            f'macro F1 {entry["macro_f1"]:.4f}  '
            if 'accuracy' in entry
            else ''
        )
        tqdm.write(
            f'epoch {entry["epoch"]}/{self.config.train.epochs}  train loss {entry["train_loss"]:.4f}  {validated}'
            f'({entry["seconds"]:.0f} s)'
        )

    def _set_learning_rate(self) -> None:
        rate = learning_rate(self.config.train, self.progress.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group['lr'] = rate * group.get('lr_scale', 1.0)

    def _save(self) -> Path:
        return save_checkpoint(
            self.accelerator, self.folder / 'checkpoints', self.progress, self._averaged_model(), self.config.run.keep
        )

    def _interrupt(self, stop: StopSignals) -> None:
        path = self._save()
        raise Interrupted(
            f'Stopped after {self.progress.epoch} epochs and {self.progress.step} steps; everything is in {path}.\n'
            f'Go on with: accelerate launch train_scripts/finetune.py --resume {self.folder}',
            stop.signal_number or signal.SIGINT,
        )

    def _resume(self) -> None:
        """Load the newest checkpoint of the run, if any, and cut the log back to it."""
        checkpoint = newest_checkpoint(self.accelerator, self.folder / 'checkpoints')
        if checkpoint is not None:
            self.progress = load_checkpoint(self.accelerator, checkpoint, self.model, self._averaged_model())
            self.accelerator.print(f'going on from {checkpoint}')
        if self.accelerator.is_main_process:
            _cut_log(self.folder / 'log.jsonl', self.progress.epoch)

    def _start_trackers(self) -> None:
        if self.config.run.tracker != 'none':
            options = {key: str(value) for key, value in flat(self.config).items()}
            self.accelerator.init_trackers('timm_convattn', config=options)


def _cut_log(path: Path, epochs: int) -> None:
    """Keep the lines of the first epochs; a process that died may have left half a line at the end."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            if json.loads(line)['epoch'] <= epochs:
                kept.append(line)
        except ValueError:
            break
    if path.is_file():
        write_text(path, ''.join(f'{line}\n' for line in kept))


def _check_batches_of_one(model: nn.Module, data_config: Preprocessing) -> None:
    """Refuse batches of one crop for a network that finds no batch statistics in them."""
    try:
        copy.deepcopy(model).train()(torch.zeros(1, *data_config['input_size']))
    except (AssertionError, ValueError) as error:
        raise InputError(f'The network cannot train on batches of one crop: {error}') from None


def _create_normalize(config: Config, data_config: Preprocessing) -> Normalize:
    return Normalize(data_config['mean'], data_config['std'], Augment(config.augment, config.run.seed))


def _create_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    params = model if config.added_lr_scale == 1 else _scaled_groups(config, model)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            params, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
        )
    except (AssertionError, ValueError) as error:
        names = ', '.join(timm.optim.list_optimizers()[:12])
        raise InputError(f'There is no optimizer {config.optimizer!r} ({error}); some of timm: {names} ...') from error
    return optimizer


def _scaled_groups(config: TrainConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Divide the parameters as timm does, by whether their weights decay, and by whether the backbone has them.

    Raises:
        InputError: If the model has nothing beyond its backbone.
    """
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


def _chosen_crops(config: Config, crops: Any) -> Any:
    limit = config.data.limit_train
    if limit is None or limit >= len(crops):
        return crops
    if config.data.streaming:
        return crops.take(limit)
    return crops.select(np.sort(np.random.default_rng(config.run.seed).permutation(len(crops))[:limit]))


def _training_loader(
    config: Config, crops: Any, data_config: Preprocessing, num_processes: int
) -> tuple[DataLoader[Any], EpochSampler | StreamedImages]:
    """Make the loader of batches (images, labels, indices), and what has to be told the epoch."""
    channels, height, width = data_config['input_size']
    resize, seed = ResizeToPixels((height, width), data_config['interpolation']), config.run.seed
    images: Any
    if config.data.streaming:
        images = StreamedImages(crops, resize, channels, seed)
    elif config.data.plain_input:
        images = CropImages(crops, resize, channels)
    else:
        images = open_store(crops, (height, width), data_config['interpolation'])
    sampler: EpochSampler | None = None
    if config.train.sampling == 'balanced':
        sampler = BalancedSampler(crops['label'][:], seed)
    elif not config.data.streaming:
        sampler = EpochSampler(len(images), seed)
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=config.train.batch_size,
        sampler=sampler,
        collate_fn=identity_collate if isinstance(images, StoredCrops) else None,
        num_workers=config.data.num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each pass takes a number of the generator that dropout draws from
        # a last batch of one crop has no statistics for batch norm
        drop_last=len(images) >= config.train.batch_size * num_processes,
    )
    return loader, images if sampler is None else sampler
