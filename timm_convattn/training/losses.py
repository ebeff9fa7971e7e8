"""Losses for classes that are not equally frequent."""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm_convattn.config import TrainConfig

__all__ = ['FocalLoss', 'LogitAdjustedLoss', 'create_loss']


class FocalLoss(nn.Module):
    """Cross entropy that down-weights easy examples: the loss of each class is multiplied by (1 - p)^gamma.

    Source: "Focal Loss for Dense Object Detection", arXiv:1708.02002, Eq. 4.

    Args:
        gamma: Strength; 0 is the cross entropy.
        label_smoothing: Share of the target that is spread over all classes.
    """

    def __init__(self, gamma: float = 2.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits (B, num_classes) and labels (B,)."""
        log_p = F.log_softmax(logits.float(), dim=1)
        num_classes = logits.shape[1]
        targets = F.one_hot(labels, num_classes) * (1 - self.label_smoothing) + self.label_smoothing / num_classes
        # 1 - p by expm1 of log p, so that it is exact and its gradient finite where p is almost 1
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -(targets * rest**self.gamma * log_p).sum(dim=1).mean()


class LogitAdjustedLoss(nn.Module):
    """Cross entropy of logits plus the logarithm of each class's frequency.

    Source: "Long-tail learning via logit adjustment", arXiv:2007.07314, Eq. 10.

    The logits of the network itself, without the adjustment, then do not favour frequent classes. A class without
    samples is not adjusted.

    Args:
        counts: Training samples of each class.
        tau: Factor on the logarithm; 0 is the cross entropy.
        label_smoothing: Share of the target that is spread over all classes.
    """

    adjustment: torch.Tensor

    def __init__(self, counts: Sequence[int], tau: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        frequencies = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        adjustment = torch.where(frequencies > 0, tau * frequencies.log(), 0.0)
        self.register_buffer('adjustment', adjustment.float(), persistent=False)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits (B, num_classes) and labels (B,)."""
        return F.cross_entropy(logits.float() + self.adjustment, labels, label_smoothing=self.label_smoothing)


def create_loss(config: TrainConfig, counts: Sequence[int]) -> nn.Module:
    """Create the loss of a run, given the number of training samples of each class."""
    if config.loss == 'focal':
        return FocalLoss(config.focal_gamma, config.label_smoothing)
    if config.loss == 'logit_adjusted':
        return LogitAdjustedLoss(counts, config.logit_adjustment, config.label_smoothing)
    return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
