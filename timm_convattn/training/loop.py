"""The training loop: any number of processes, resumable at every step."""

import copy
import itertools
import json
import math
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from accelerate import Accelerator, DistributedType
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3, distribute_bn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from timm_convattn.config import Config, TrainConfig, flat
from timm_convattn.data.augment import Augment, Normalize
from timm_convattn.data.crop_images import unwrap_worker_errors
from timm_convattn.files import write_text
from timm_convattn.layers import calibrate_norms
from timm_convattn.models.config import Preprocessing
from timm_convattn.training.checkpoints import Progress, load_checkpoint, newest_checkpoint, save_checkpoint
from timm_convattn.training.evaluation import evaluation_loader, predict, score
from timm_convattn.training.loss_watch import LossWatch
from timm_convattn.training.losses import create_loss
from timm_convattn.training.setup import Splits, check_batches_of_one, create_optimizer, training_loader
from timm_convattn.training.stop import Interrupted, StopSignals, stop_signals

__all__ = ['Training', 'learning_rate']

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # pixels (B, C, H, W) uint8, labels (B,), indices (B,)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warmup, then the schedule over the other steps."""
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
    """The state of a run, and its training loop.

    Raises:
        InputError: If the optimizer cannot be created, crops cannot be read, or the model cannot train on such batches.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        model: nn.Module,  # on the CPU; it is moved and prepared
        splits: Splits,
        preprocessing: Preprocessing,
        folder: Path,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.splits = splits
        self.folder = folder
        self.progress = Progress()
        augment = Augment(config.augment, config.run.seed)
        self.normalize = Normalize(preprocessing['mean'], preprocessing['std'], augment)
        optimizer = create_optimizer(config.train, model)
        with accelerator.local_main_process_first():  # one process fills the store
            loader, self.order = training_loader(config, splits.train, preprocessing, accelerator.num_processes)
        if min(config.train.batch_size, len(splits.train)) == 1:
            check_batches_of_one(model, preprocessing['input_size'])
        if (config.model.pretrained or config.model.init_from) and config.model.calibrate:
            self._calibrate(model, loader)
        validation = evaluation_loader(splits.validation, preprocessing, num_workers=config.data.num_workers)
        model = self._convert(model)
        # EMA warm-up: the initial variances of batch norms, which are 1, would dominate the average of a short run
        self.ema = ModelEmaV3(model, decay=config.train.ema_decay, use_warmup=True) if config.train.ema else None
        # FSDP shards the model itself; this copy gathers its weights
        self.gathered = copy.deepcopy(model) if accelerator.distributed_type == DistributedType.FSDP else None
        self.model, self.optimizer, self.loader, self.validation = accelerator.prepare(
            model, optimizer, loader, validation
        )
        self.averaged: nn.Module | None = None
        if self.ema is not None:
            self.averaged = self.ema.to(accelerator.device).module
        self.steps_per_epoch = math.ceil(len(self.loader) / config.train.gradient_accumulation)
        counts = [] if config.data.streaming else list(splits.class_counts().values())
        self.criterion = create_loss(config.train, counts).to(accelerator.device)
        self.watch = LossWatch(folder, accelerator.device)

    def _convert(self, model: nn.Module) -> nn.Module:
        if self.config.run.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if self.config.train.sync_batchnorm and self.accelerator.num_processes > 1:
            model = convert_sync_batchnorm(model)
        if self.config.run.compile:
            model.compile()
        return model

    def run(self) -> None:
        """Train from the newest checkpoint of the run, if any, to the last epoch."""
        self._resume()
        self._start_trackers()
        total = self.config.train.epochs * self.steps_per_epoch
        quiet = None if self.accelerator.is_main_process else True  # None: only on a terminal
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

    def weights(self) -> nn.Module:
        """Return the model with the weights to save: the averaged ones, if there are any.

        Every process has to call it. With FSDP, only the main process gets the weights.
        """
        if self.gathered is not None:
            state = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                self.gathered.load_state_dict(state)
            return self.gathered
        unwrapped: nn.Module = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return self.averaged or unwrapped

    def _calibrate(self, model: nn.Module, loader: DataLoader[Any]) -> None:
        """Set the statistics of new batch norms, so that pretrained layers get inputs of the usual scale."""
        device = self.accelerator.device
        batches = (
            self.normalize(pixels.to(device), indices.to(device), epoch=0)
            for pixels, _, indices in itertools.islice(loader, self.config.model.calibrate)
        )
        with unwrap_worker_errors():
            calibrate_norms(model.to(device), batches)

    def _train_epoch(self, stop: StopSignals, bar: Any) -> None:
        """Train on the batches of an epoch that are left, or until a stop is requested."""
        progress, accelerator = self.progress, self.accelerator
        started = time.perf_counter() - progress.seconds
        loader = self.loader
        if progress.batch:
            loader = accelerator.skip_first_batches(loader, progress.batch)
        self.order.set_epoch(progress.epoch)
        loader.set_epoch(progress.epoch)  # accelerate's loader counts epochs itself and passes its count to the sampler
        self.model.train()
        loss_sum = torch.zeros(1, device=accelerator.device)
        if progress.loss_sums:
            loss_sum += progress.loss_sums[accelerator.process_index]
        for batch in self._timed(loader):
            loss_sum += self._train_batch(*batch)
            if accelerator.sync_gradients:
                bar.update()
                if stop.requested():
                    break
        progress.loss_sums = accelerator.gather(loss_sum).tolist()
        progress.seconds = time.perf_counter() - started
        self.watch.check()

    def _timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of a loader, and add up the time that training waits for them."""
        batches = iter(loader)
        while True:
            started = time.perf_counter()
            with unwrap_worker_errors():
                batch = next(batches, None)
            self.progress.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _train_batch(self, pixels: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Compute the gradients of a batch, make a step if enough are accumulated, and return the loss."""
        progress, accelerator = self.progress, self.accelerator
        images = self.normalize(pixels, indices, progress.epoch)
        with accelerator.accumulate(self.model):
            loss: torch.Tensor = self.criterion(self.model(images), labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                if self.config.train.clip_grad is not None:
                    accelerator.clip_grad_norm_(self.model.parameters(), self.config.train.clip_grad)
                self._set_learning_rate()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.watch.add(loss, indices, progress.step, self.optimizer.param_groups[0]['lr'])
        progress.batch += 1
        if accelerator.sync_gradients:
            progress.step += 1
            if self.ema is not None:
                self.ema.update(accelerator.unwrap_model(self.model), step=progress.step)
        return loss.detach()

    def _finish_epoch(self) -> None:
        """Evaluate, log, save a checkpoint, and go to the next epoch."""
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
        """Copy the batch norm statistics of the main process to the others, which have seen other crops."""
        if self.accelerator.num_processes > 1:
            for model in filter(None, (self.accelerator.unwrap_model(self.model), self.averaged)):
                distribute_bn(model, self.accelerator.num_processes, reduce=False)

    def _validate(self) -> dict[str, float]:
        model = self.averaged or self.model
        metrics = score(predict(model, self.validation, self.accelerator, self.splits.class_names))
        return {
            'validation_loss': metrics.loss,
            **{key: getattr(metrics, key) for key in ('accuracy', 'macro_f1', 'weighted_f1')},
        }

    def _log(self, entry: dict[str, float]) -> None:
        self.accelerator.log({key: value for key, value in entry.items() if key != 'step'}, step=entry['step'])
        if not self.accelerator.is_main_process:
            return
        with (self.folder / 'log.jsonl').open('a') as log:
            log.write(json.dumps(entry) + '\n')
        line = 'epoch {epoch}/{epochs}  train loss {train_loss:.4f}  '
        if 'accuracy' in entry:
            line += 'validation: loss {validation_loss:.4f}, accuracy {accuracy:.4f}, macro F1 {macro_f1:.4f}  '
        tqdm.write((line + '({seconds:.0f} s)').format(epochs=self.config.train.epochs, **entry))

    def _set_learning_rate(self) -> None:
        rate = learning_rate(self.config.train, self.progress.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group['lr'] = rate * group.get('lr_scale', 1.0)

    def _save(self) -> Path:
        return save_checkpoint(
            self.accelerator, self.folder / 'checkpoints', self.progress, self.averaged, self.config.run.keep
        )

    def _interrupt(self, stop: StopSignals) -> None:
        path = self._save()
        raise Interrupted(
            f'Stopped after {self.progress.epoch} epochs and {self.progress.step} steps; the checkpoint is {path}.\n'
            f'Resume with: accelerate launch train_scripts/finetune.py --resume {self.folder}',
            stop.signal_number or signal.SIGINT,
        )

    def _resume(self) -> None:
        """Load the newest checkpoint of the run, if any, and cut the log back to it."""
        checkpoint = newest_checkpoint(self.accelerator, self.folder / 'checkpoints')
        if checkpoint is not None:
            self.progress = load_checkpoint(self.accelerator, checkpoint, self.model, self.averaged)
            self.accelerator.print(f'resuming from {checkpoint}')
            if self.progress.epoch >= self.config.train.epochs:
                self.accelerator.print('all epochs are done, only the evaluation is repeated; --epochs N trains longer')
        if self.accelerator.is_main_process:
            _cut_log(self.folder / 'log.jsonl', self.progress.epoch)

    def _start_trackers(self) -> None:
        if self.config.run.tracker != 'none':
            options = {key: str(value) for key, value in flat(self.config).items()}
            self.accelerator.init_trackers('timm_convattn', config=options)


def _cut_log(path: Path, epochs: int) -> None:
    """Remove the lines of later epochs, and an incomplete line that a killed process may have left."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            if json.loads(line)['epoch'] <= epochs:
                kept.append(line)
        except ValueError:
            break
    if path.is_file():
        write_text(path, ''.join(f'{line}\n' for line in kept))
