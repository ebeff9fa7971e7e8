"""The pixels that maps are drawn over."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

__all__ = ['picture_of_input', 'picture_pixels']

Pixels = npt.NDArray[np.uint8]


def picture_pixels(picture: Image.Image) -> Pixels:
    """Give the pixels of a picture, (H, W) or (H, W, 3); those of more than 8 bits stretched between their extremes."""
    if picture.mode in ('1', 'L', 'LA'):
        return np.asarray(picture.convert('L'))
    if picture.mode.startswith(('I', 'F')):
        return _stretched(np.asarray(picture, dtype=np.float64))
    return _without_colour_if_grey(np.asarray(picture.convert('RGB')))


def picture_of_input(model: Any, images: torch.Tensor) -> Pixels:
    """Give the pixels of an image as a model takes it, (H, W) or (H, W, 3).

    The model's own mean and standard deviation, where it names them, are taken out of it; other values are stretched
    between darkest and brightest.

    Args:
        model: The model.
        images: (1, C, H, W)
    """
    values = images[0].detach().cpu().double()
    config: Any = getattr(model, 'pretrained_cfg', None) or {}
    mean, std = (torch.tensor(config.get(key) or [], dtype=torch.double).view(-1, 1, 1) for key in ('mean', 'std'))
    if len(mean) == len(std) == len(values):
        values = values * std + mean
        grey = values.clamp(0, 1).mul(255).round().byte().numpy()
    else:
        grey = _stretched(values.numpy())
    return _without_colour_if_grey(np.moveaxis(grey, 0, 2)) if len(grey) == 3 else np.asarray(grey[0])


def _stretched(values: npt.NDArray[np.float64]) -> Pixels:
    span = np.ptp(values) or 1.0
    grey: Pixels = np.rint((values - values.min()) / span * 255).astype(np.uint8)
    return grey


def _without_colour_if_grey(pixels: Pixels) -> Pixels:
    is_grey = bool((pixels == pixels[..., :1]).all())
    return np.asarray(pixels[..., 0]) if is_grey else pixels
