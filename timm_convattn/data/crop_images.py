"""Single crops for a `DataLoader`: decoded, transformed, with errors that name the crop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import datasets
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from timm_convattn.data.images import decode_crop
from timm_convattn.errors import InputError

__all__ = ['CropImages', 'ResizeToPixels', 'unwrap_worker_errors']


class CropImages(torch.utils.data.Dataset[tuple[torch.Tensor, int, int]]):
    """Crops as (image, label, index), with a transform applied to the image.

    Indices past the last crop wrap around; the returned index does not, so that each repeat is augmented differently.

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
        position = index % len(self)
        crop = self.crops[position]
        return self.transform(decode_crop(crop['image'], self.mode, position)), crop['label'], index


class ResizeToPixels:
    """Squash a PIL image to a size and return its pixels as uint8 (C, H, W); timm's crop mode 'squash'."""

    def __init__(self, size: tuple[int, int], interpolation: str = 'bilinear') -> None:
        self.size = size
        self.interpolation = Image.Resampling[interpolation.upper()]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize an image."""
        height, width = self.size
        pixels: torch.Tensor = tvf.pil_to_tensor(image.resize((width, height), self.interpolation))
        return pixels


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Raise the `InputError` of a `DataLoader` worker with its message alone, without the worker's traceback.

    Raises:
        InputError: With the message.
    """
    try:
        yield
    except InputError as error:
        before, _, message = str(error).rpartition('InputError: ')
        if 'in DataLoader worker' not in before:
            raise
        raise InputError(message.strip()) from None
