"""Orders of training samples that depend on seed and epoch alone."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

__all__ = ['BalancedSampler', 'EpochSampler']


class EpochSampler(torch.utils.data.Sampler[int]):
    """A random order of all indices that depends on (seed, epoch) alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order: list[int] = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        return iter(order)


class BalancedSampler(EpochSampler):
    """Equally many indices of each class that has samples, in a random order that depends on (seed, epoch) alone.

    An epoch has as many indices as the data set has samples. Each sample of a class is drawn before one is drawn again.
    The k-th repeat of an index is raised by k times the number of samples, so that repeats are augmented differently.

    Args:
        labels: (N,) class of each sample.
        seed: Seed of the order.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        super().__init__(len(labels), seed)
        self.classes = [np.flatnonzero(np.asarray(labels) == label) for label in np.unique(labels)]

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        ends = np.linspace(0, self.length, len(self.classes) + 1).round().astype(int)
        chosen = []
        for members, count in zip(self.classes, np.diff(ends), strict=True):
            rounds = math.ceil(count / len(members))
            drawn = [rng.permutation(members) + repeat * self.length for repeat in range(rounds)]
            chosen.append(np.concatenate([members[:0], *drawn])[:count])
        order: list[int] = rng.permutation(np.concatenate(chosen)).tolist()
        return iter(order)
