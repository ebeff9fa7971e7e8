"""Crops to batches: resize each crop once, augment whole batches on their device.

Every random number of the augmentation is a function of (seed, epoch, index of the crop): the same crop of the same
epoch looks the same whatever the number of workers, processes or the point at which a run was resumed.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import fsspec  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tvf

from timm_convattn.data.images import MAX_PIXELS
from timm_convattn.errors import InputError

__all__ = [
    'Augment',
    'AugmentAmounts',
    'BalancedSampler',
    'CropImages',
    'EpochSampler',
    'Normalize',
    'ResizeToPixels',
    'decode_crop',
    'explain_broken_crop',
    'uniform',
    'unwrap_worker_errors',
]


class CropImages(torch.utils.data.Dataset[tuple[torch.Tensor, int, int]]):
    """Crops as (image, label, index), the image put through a transform.

    Indices past the last crop begin anew, so that a crop that comes up again has another index.

    Args:
        crops: A data set with columns `image` and `label`.
        transform: From a PIL image (mode L or RGB) to a tensor. It has to be picklable for worker processes.
        in_chans: 1 for grey images, 3 for RGB (a grey crop three times).
    """

    def __init__(
        self, crops: datasets.Dataset, transform: Callable[[Image.Image], torch.Tensor], in_chans: int
    ) -> None:
        self.crops = crops.select_columns(['image', 'label']).cast_column('image', datasets.Image(decode=False))
        self.mode = {1: 'L', 3: 'RGB'}[in_chans]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        with explain_broken_crop(index % len(self)):
            crop = self.crops[index % len(self)]
            image = decode_crop(crop['image'], self.mode)
        return self.transform(image), crop['label'], index


def decode_crop(encoded: dict[str, Any], mode: str) -> Image.Image:
    """Decode a crop as `datasets` does, once its header says that it is no larger than a crop can be.

    Args:
        encoded: `bytes` of the file, or else its `path`, as `datasets.Image(decode=False)` gives them.
        mode: Mode of the image that is wanted.

    Raises:
        ValueError: If it has more than `MAX_PIXELS`. What else a broken file leads to, Pillow raises.
    """
    content = encoded['bytes']
    if content is None:
        with fsspec.open(encoded['path'], 'rb') as file:
            content = file.read()
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f'it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
        image.load()
        upright = ImageOps.exif_transpose(image)
        return upright if upright.mode == mode else upright.convert(mode)


@contextmanager
def explain_broken_crop(index: int) -> Iterator[None]:
    """Turn what fails while a crop is decoded into a sentence.

    Raises:
        InputError: Naming the place of the crop in its data set.
    """
    try:
        yield
    except Exception as error:  # Pillow's readers fail with whatever a broken image leads them to
        raise InputError(f'Crop {index} of the data set cannot be decoded ({error}). Build the crops again.') from error


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Give the sentence of an `InputError` that a worker of a `DataLoader` raised, without the traceback before it.

    Raises:
        InputError: With the sentence.
    """
    try:
        yield
    except InputError as error:
        before, _, sentence = str(error).rpartition('InputError: ')
        if 'in DataLoader worker' not in before:
            raise
        raise InputError(sentence.strip()) from None


class ResizeToPixels:
    """Squash a PIL image to a size and give its pixels as uint8 (C, H, W); timm's crop mode 'squash'."""

    def __init__(self, size: tuple[int, int], interpolation: str = 'bilinear') -> None:
        self.size = size
        self.interpolation = Image.Resampling[interpolation.upper()]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize an image."""
        height, width = self.size
        pixels: torch.Tensor = tvf.pil_to_tensor(image.resize((width, height), self.interpolation))
        return pixels


class EpochSampler(torch.utils.data.Sampler[int]):
    """A random order of all indices that depends on (seed, epoch) alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order: list[int] = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        return iter(order)


class BalancedSampler(EpochSampler):
    """As many indices of each class that has any, in a random order that depends on (seed, epoch) alone.

    An epoch is as long as the data set. Within a class all come up before one does again; the k-th time its index is
    raised by k times the number of samples, so that it is augmented in another way.

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
            drawn = [rng.permutation(members) + again * self.length for again in range(rounds)]
            chosen.append(np.concatenate([members[:0], *drawn])[:count])
        order: list[int] = rng.permutation(np.concatenate(chosen)).tolist()
        return iter(order)


class Normalize:
    """Bring uint8 pixels to [0, 1] and to the network's mean and standard deviation.

    Args:
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel.
        augment: What to do to the images between the two steps.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], augment: 'Augment | None' = None) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.augment = augment

    def __call__(self, pixels: torch.Tensor, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        """Normalise a batch.

        Args:
            pixels: (B, C, H, W) uint8; one channel where the network takes three becomes three.
            indices: (B,) indices of the crops in their data set.
            epoch: The epoch, for the augmentation.

        Returns:
            (B, channels of the mean, H, W) float32 on the device of `pixels`.
        """
        images = pixels.float().div_(255)
        if self.augment is not None:
            images = self.augment(images, indices, epoch)
        return images.sub(self.mean.to(images.device)).div_(self.std.to(images.device))


@dataclass(frozen=True)
class AugmentAmounts:
    """How much the paper's augmentations do; it names them and gives no amounts."""

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
    """What happens to each crop of a batch, as `affine_matrices` takes it."""

    flip: torch.Tensor
    angle: torch.Tensor
    translate: torch.Tensor
    shear: torch.Tensor
    scale: torch.Tensor
    brightness: torch.Tensor
    """(B,) factor"""


class Augment:
    """The paper's augmentations (section 4.2) of whole batches: one affine sampling, then brightness.

    Rotation, shift, shear and zoom mean what they mean in torchvision's `RandomAffine` (shear along x), brightness what
    it means in `ColorJitter`. What comes in over the border repeats the border.

    Args:
        amounts: How much of each.
        seed: Seed of the random numbers.
    """

    def __init__(self, amounts: AugmentAmounts, seed: int) -> None:
        self.amounts = amounts
        self.seed = seed

    def __call__(self, images: torch.Tensor, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: (B, C, H, W) in [0, 1]
            indices: (B,) indices of the crops in their data set.
            epoch: The epoch; every epoch draws anew.

        Returns:
            (B, C, H, W) in [0, 1]
        """
        drawn = self.draw(indices, epoch)
        size = (images.shape[2], images.shape[3])
        matrices = affine_matrices(drawn.flip, drawn.angle, drawn.translate, drawn.shear, drawn.scale, size)
        grid = affine_grid(matrices.to(images), size)
        images = F.grid_sample(images, grid, mode='bilinear', padding_mode='border', align_corners=False)
        return images.mul_(drawn.brightness.to(images).view(-1, 1, 1, 1)).clamp_(0, 1)

    def draw(self, indices: torch.Tensor, epoch: int) -> Drawn:
        """Draw what happens to each crop of a batch.

        Args:
            indices: (B,) indices of the crops in their data set.
            epoch: The epoch.
        """
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
    """Compute where each pixel comes from, as torch's `affine_grid` does without `align_corners`, in less time.

    A place is a sum of what its column and what its row give; torch multiplies a matrix with every pixel.

    Args:
        matrices: (B, 2, 3), from places of the output to places of the input in [-1, 1].
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
    """Compute the matrices with which `affine_grid` does what torchvision's `affine` does, after a flip.

    Args:
        flip: (B,) whether the image is mirrored first.
        angle: (B,) clockwise rotation, in degrees.
        translate: (B, 2) shift to the right and down, in widths and heights.
        shear: (B,) shear along x, in degrees.
        scale: (B,) zoom factor.
        size: Height and width, in pixels.

    Returns:
        (B, 2, 3), from places of the output to places of the input in [-1, 1].
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
    shift = -(linear @ (2 * translate).unsqueeze(2))  # one width is 2 in places of [-1, 1]
    return torch.cat([linear, shift], dim=2)


def uniform(seed: int, epoch: int, indices: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Draw numbers in [0, 1) that depend on (seed, epoch, index, place) alone.

    A counter-based generator: the mixing function of splitmix64 over a counter made of the four.

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
    places = np.arange(count, dtype=np.uint64)
    bits = _mix(np.add.outer(samples, places))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # the 53 bits that a float64 holds


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the bits of each number (arithmetic modulo 2^64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
