"""Stopping a run whose loss is no number, with what it takes to find out why."""

from pathlib import Path

import torch

from timm_convattn.errors import InputError

__all__ = ['LossWatch']

EVERY = 25  # steps: to look at a loss keeps the processor waiting for the GPU


class LossWatch:
    """Looks at the losses of a run: on a CPU at each, on a GPU at some at a time.

    Args:
        folder: The run folder, for the message.
        device: Where the losses are.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.every = 1 if device.type == 'cpu' else EVERY
        self._kept: list[tuple[torch.Tensor, torch.Tensor, int, float]] = []

    def add(self, loss: torch.Tensor, crops: torch.Tensor, step: int, learning_rate: float) -> None:
        """Keep the loss of a batch, and look at all that are kept when there are many.

        Args:
            loss: Of the batch, one number.
            crops: (B,) places of its crops among those that are trained on.
            step: Steps done before it.
            learning_rate: Of its step.

        Raises:
            InputError: If one of them is not finite.
        """
        self._kept.append((loss.detach(), crops, step, learning_rate))
        if len(self._kept) >= self.every:
            self.look()

    def look(self) -> None:
        """Look at all that are kept.

        Raises:
            InputError: If one of them is not finite.
        """
        kept, self._kept = self._kept, []
        if not kept or torch.stack([loss for loss, *_ in kept]).isfinite().all():
            return
        loss, crops, step, rate = next(entry for entry in kept if not entry[0].isfinite())
        checkpoints = self.folder / 'checkpoints'
        raise InputError(
            f'The loss is {loss.item()} at step {step + 1}, at a learning rate of {rate:.2g}, on the training crops '
            f'{", ".join(map(str, crops.tolist()))}. Lower --lr, or clip gradients with --clip-grad 1. '
            + (
                f'The checkpoints before it are in {checkpoints}.'
                if checkpoints.exists()
                else 'No checkpoint is there.'
            )
        )
