"""Stop a run whose loss is NaN or infinite, with the facts that help to find out why."""

from pathlib import Path

import torch

from timm_convattn.errors import InputError

__all__ = ['LossWatch']

EVERY = 25  # batches: reading a loss from a GPU waits for it


class LossWatch:
    """Check that the losses of a run are finite: each one on a CPU, in groups on a GPU.

    Args:
        folder: The run folder, for the message.
        device: Device of the losses.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.every = 1 if device.type == 'cpu' else EVERY
        self._pending: list[tuple[torch.Tensor, torch.Tensor, int, float]] = []

    def add(self, loss: torch.Tensor, crops: torch.Tensor, step: int, learning_rate: float) -> None:
        """Add the loss of a batch, a scalar, with the (B,) indices of its crops and its step, counted from 0.

        Raises:
            InputError: If a loss is NaN or infinite.
        """
        self._pending.append((loss.detach(), crops, step, learning_rate))
        if len(self._pending) >= self.every:
            self.check()

    def check(self) -> None:
        """Check the pending losses.

        Raises:
            InputError: If one of them is NaN or infinite.
        """
        pending, self._pending = self._pending, []
        if not pending or torch.stack([loss for loss, *_ in pending]).isfinite().all():
            return
        loss, crops, step, rate = next(entry for entry in pending if not entry[0].isfinite())
        checkpoints = self.folder / 'checkpoints'
        earlier = f'Earlier checkpoints are in {checkpoints}.' if checkpoints.exists() else 'There is no checkpoint.'
        raise InputError(
            f'The loss is {loss.item()} at step {step + 1}, at a learning rate of {rate:.2g}, on the training crops '
            f'{", ".join(map(str, crops.tolist()))}. Lower --lr, or clip gradients with --clip-grad 1. {earlier}'
        )
