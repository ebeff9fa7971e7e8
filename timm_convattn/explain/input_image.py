"""The pixels that maps are drawn over."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

__all__ = ['image_pixels', 'restore_input']

Pixels = npt.NDArray[np.uint8]


def image_pixels(image: Image.Image) -> Pixels:
    """Return the pixels of an image, (H, W) or (H, W, 3); more than 8 bits are scaled between minimum and maximum."""
    if image.mode in ('1', 'L', 'LA'):
        return np.asarray(image.convert('L'))
    if image.mode.startswith(('I', 'F')):
        return _scale(np.asarray(image, dtype=np.float64))
    return _grey_if_equal(np.asarray(image.convert('RGB')))


def restore_input(model: Any, images: torch.Tensor) -> Pixels:
    """Return the pixels of a model's input, (H, W) or (H, W, 3).

    The normalisation by the model's mean and standard deviation is undone; without these, values are scaled between
    minimum and maximum.

    Args:
        model: The model.
        images: (1, C, H, W)
    """
    values = images[0].detach().cpu().double()
    config: Any = getattr(model, 'pretrained_cfg', None) or {}
    mean, std = (torch.tensor(config.get(key) or [], dtype=torch.double).view(-1, 1, 1) for key in ('mean', 'std'))
    if len(mean) == len(std) == len(values):
        values = values * std + mean
        pixels = values.clamp(0, 1).mul(255).round().byte().numpy()
    else:
        pixels = _scale(values.numpy())
    return _grey_if_equal(np.moveaxis(pixels, 0, 2)) if len(pixels) == 3 else np.asarray(pixels[0])


def _scale(values: npt.NDArray[np.float64]) -> Pixels:
    span = np.ptp(values) or 1.0
    scaled: Pixels = np.rint((values - values.min()) / span * 255).astype(np.uint8)
    return scaled


def _grey_if_equal(pixels: Pixels) -> Pixels:
    is_grey = bool((pixels == pixels[..., :1]).all())
    return np.asarray(pixels[..., 0]) if is_grey else pixels
