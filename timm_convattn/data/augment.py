"""Augmentation of batches on their device.

Every random number is a function of (seed, epoch, index of the crop): a crop is augmented identically in an epoch,
whatever the number of workers and processes, and wherever a run was resumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

__all__ = ['Augment', 'AugmentAmounts', 'Normalize', 'uniform']


class Normalize:
    """Scale uint8 pixels to [0, 1], augment them, and normalize with the mean and standard deviation of the network.

    Args:
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel.
        augment: Augmentation of images in [0, 1]; None for none.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], augment: 'Augment | None' = None) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.augment = augment

    def __call__(self, pixels: torch.Tensor, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        """Normalize a batch.

        Args:
            pixels: (B, C, H, W) uint8; one channel is repeated where the network takes three.
            indices: (B,) indices of the crops in their data set.
            epoch: Epoch of the augmentation.

        Returns:
            (B, channels of the mean, H, W) float32 on the device of `pixels`.
        """
        images = pixels.float().div_(255)
        if self.augment is not None:
            images = self.augment(images, indices, epoch)
        return images.sub(self.mean.to(images.device)).div_(self.std.to(images.device))


@dataclass(frozen=True)
class AugmentAmounts:
    """Amounts of the paper's augmentations, which the paper does not state."""

    hflip: float = 0.5
    """Probability of a horizontal flip."""
    rotation: float = 10.0
    """Random rotation to either side, in degrees."""
    shift: float = 0.1
    """Random shift to either side, of the width and of the height."""
    shear: float = 10.0
    """Random shear along x to either side, in degrees."""
    zoom: float = 0.1
    """Random zoom by a factor of 1 - zoom to 1 + zoom."""
    brightness: float = 0.2
    """Random brightness by a factor of 1 - brightness to 1 + brightness."""


class Drawn(NamedTuple):
    """Random parameters of each crop of a batch, as `affine_matrices` takes them."""

    flip: torch.Tensor
    angle: torch.Tensor
    translate: torch.Tensor
    shear: torch.Tensor
    scale: torch.Tensor
    brightness: torch.Tensor
    """(B,) factor"""


class Augment:
    """The paper's augmentations (section 4.2) of batches: one affine sampling, then brightness.

    Rotation, shift, shear (along x) and zoom are those of torchvision's `RandomAffine`, brightness is that of
    `ColorJitter`. Pixels outside of the image repeat its border.

    Args:
        amounts: Amount of each augmentation.
        seed: Seed of the random numbers.
    """

    def __init__(self, amounts: AugmentAmounts, seed: int) -> None:
        self.amounts = amounts
        self.seed = seed

    def __call__(self, images: torch.Tensor, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        """Augment a batch of (B, C, H, W) images in [0, 1], with (B,) indices of the crops in their data set."""
        drawn = self.draw(indices, epoch)
        size = (images.shape[2], images.shape[3])
        matrices = affine_matrices(drawn.flip, drawn.angle, drawn.translate, drawn.shear, drawn.scale, size)
        grid = affine_grid(matrices.to(images), size)
        images = F.grid_sample(images, grid, mode='bilinear', padding_mode='border', align_corners=False)
        return images.mul_(drawn.brightness.to(images).view(-1, 1, 1, 1)).clamp_(0, 1)

    def draw(self, indices: torch.Tensor, epoch: int) -> Drawn:
        """Draw the random parameters of a batch, from (B,) indices of the crops in their data set."""
        amounts = self.amounts
        numbers = torch.from_numpy(uniform(self.seed, epoch, indices.cpu().numpy(), 7)).float()
        spread = 2 * numbers - 1  # -1 ... 1
        return Drawn(
            flip=numbers[:, 0] < amounts.hflip,
            angle=spread[:, 1] * amounts.rotation,
            translate=spread[:, 2:4] * amounts.shift,
            shear=spread[:, 4] * amounts.shear,
            scale=1 + spread[:, 5] * amounts.zoom,
            brightness=1 + spread[:, 6] * amounts.brightness,
        )


def affine_grid(matrices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Compute the sampling grid of torch's `affine_grid` (with `align_corners=False`) in less time.

    A position is the sum of a term of its column and a term of its row; torch multiplies each pixel by the matrix.

    Args:
        matrices: (B, 2, 3), from positions in the output to positions in the input, both in [-1, 1].
        size: Height and width, in pixels.

    Returns:
        (B, H, W, 2)
    """
    ys, xs = ((2 * torch.arange(length).to(matrices) + 1) / length - 1 for length in size)
    of_column = matrices[:, :, 0, None] * xs  # B, 2, W
    of_row = matrices[:, :, 1, None] * ys + matrices[:, :, 2, None]  # B, 2, H
    return (of_row.unsqueeze(3) + of_column.unsqueeze(2)).movedim(1, 3).contiguous()


def affine_matrices(
    flip: torch.Tensor,
    angle: torch.Tensor,
    translate: torch.Tensor,
    shear: torch.Tensor,
    scale: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Compute the matrices whose `affine_grid` equals torchvision's `affine` after a flip.

    Args:
        flip: (B,) whether the image is mirrored first.
        angle: (B,) clockwise rotation, in degrees.
        translate: (B, 2) shift to the right and down, in widths and heights.
        shear: (B,) shear along x, in degrees.
        scale: (B,) zoom factor.
        size: Height and width, in pixels.

    Returns:
        (B, 2, 3), from positions in the output to positions in the input, both in [-1, 1].
    """
    height, width = size
    rotation, slope = angle * (math.pi / 180), torch.tan(shear * (math.pi / 180))
    cos, sin = rotation.cos(), rotation.sin()
    # the inverse of scale * rotation * [[1, -slope], [0, 1]], in pixels from the centre
    inverse = torch.stack([cos - slope * sin, sin + slope * cos, -sin, cos], dim=1).view(-1, 2, 2) / scale.view(
        -1, 1, 1
    )
    inverse[:, 0] *= torch.where(flip, -1.0, 1.0).view(-1, 1)
    half = torch.tensor([width / 2, height / 2])
    linear = inverse * half.view(1, 1, 2) / half.view(1, 2, 1)
    shift = -(linear @ (2 * translate).unsqueeze(2))  # one width is 2 in [-1, 1]
    return torch.cat([linear, shift], dim=2)


def uniform(seed: int, epoch: int, indices: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Draw numbers in [0, 1) that depend on (seed, epoch, index, column) alone.

    A counter-based generator: the mixing function of splitmix64 over a counter that combines the four.

    Args:
        seed: Seed of the run.
        epoch: The epoch.
        indices: (B,) indices of samples.
        count: Numbers for each sample.

    Returns:
        (B, count)
    """
    key = _mix(_mix(np.array([seed], np.uint64)) + np.array([epoch], np.uint64))
    samples = _mix(key + indices.astype(np.uint64))
    columns = np.arange(count, dtype=np.uint64)
    bits = _mix(np.add.outer(samples, columns))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # the 53 bits that a float64 holds


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the bits of each number (arithmetic modulo 2^64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
