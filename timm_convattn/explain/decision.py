"""One decision of a model, explained."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from timm_convattn.errors import InputError
from timm_convattn.explain.attention import attention_maps
from timm_convattn.explain.explanation import Explanation
from timm_convattn.explain.grad_cam import choose_map, compute_grad_cam, has_grad_cam
from timm_convattn.explain.model import run_once
from timm_convattn.explain.picture import picture_of_input, picture_pixels
from timm_convattn.explain.shares import split_logits
from timm_convattn.layers import RelMha2d

__all__ = ['explain']


def explain(
    model: nn.Module,
    images: torch.Tensor,
    class_names: Sequence[str],
    label: str | None = None,
    position: tuple[int, int] | None = None,
    picture: Image.Image | None = None,
    temperature: float = 1.0,
) -> Explanation:
    """Explain what a model says of one image: where it attends, what speaks for a class, which path brings it.

    Without the library grad-cam (extra: explain) there is no Grad-CAM. The model is left as it was.

    Args:
        model: A model with maps: one of timm, with or without our attention, or any network with a `ConvAttn` in it.
        images: (1, C, H, W), as the model takes them.
        class_names: Names of the classes, in the order of the logits.
        label: The class to explain. None: the predicted one.
        position: Row and column of the pixel of `picture` whose look to give. None: the mean of all positions.
        picture: What to draw over, of any size, which shows exactly what `images` shows. None: `images` itself.
        temperature: What the logits are divided by for the probabilities (`Classifier.temperature`).

    Raises:
        InputError: If the model has no map (a ViT) or other classes, there is no such class or position, or there are
            several images.
    """
    if images.ndim != 4 or len(images) != 1:
        raise InputError(f'images is {tuple(images.shape)}, wanted one image, (1, C, H, W): explain one at a time.')
    pixels = picture_of_input(model, images) if picture is None else picture_pixels(picture)
    has_attention = any(isinstance(module, RelMha2d) for module in model.modules())
    _check_position(position, pixels.shape[:2], has_attention)
    run = run_once(model, images)
    logits = _check_logits(run.logits, class_names)
    index = _class_index(label, logits, class_names)
    cam, split = None, split_logits(model, run)
    if has_grad_cam():
        cam = _resized(compute_grad_cam(model, images, index, choose_map(run.maps)), pixels.shape[:2])
    others = logits.clone()
    others[index] = -torch.inf
    return Explanation(
        class_names=tuple(class_names),
        probabilities=(logits / temperature).softmax(0).numpy(),
        label=class_names[index],
        picture=pixels,
        attention=tuple(attention_maps(model, images)) if has_attention else (),
        position=position,
        grad_cam=cam,
        shares=split[index] if split else None,
        lead=split[index] - split[int(others.argmax())] if split and len(split) > 1 else None,
    )


def _check_position(position: tuple[int, int] | None, size: tuple[int, ...], has_attention: bool) -> None:
    if position is None:
        return
    if not has_attention:
        raise InputError('A position was given, but the model has no attention that could look from there.')
    if not all(0 <= place < side for place, side in zip(position, size, strict=True)):
        raise InputError(
            f'position is row {position[0]}, column {position[1]}, but the picture has {size[0]} rows and {size[1]} '
            'columns, counted from 0.'
        )


def _check_logits(logits: torch.Tensor, class_names: Sequence[str]) -> torch.Tensor:
    """Give the logits (num_classes,), one for each name."""
    if logits.shape != (1, len(class_names)):
        raise InputError(
            f'The model gives {tuple(logits.shape)} for one image, wanted (1, {len(class_names)}), a logit for each of '
            f'the classes {", ".join(class_names)}. Give a classifier and the names of its classes.'
        )
    return logits[0].float().cpu()


def _class_index(label: str | None, logits: torch.Tensor, class_names: Sequence[str]) -> int:
    if label is None:
        return int(logits.argmax())
    if label not in class_names:
        raise InputError(f'There is no class {label!r}, the classes are {", ".join(class_names)}.')
    return list(class_names).index(label)


def _resized(pixels: npt.NDArray[np.float32], size: tuple[int, ...]) -> npt.NDArray[np.float32]:
    resized = F.interpolate(torch.from_numpy(pixels)[None, None], size=size, mode='bilinear', align_corners=False)
    values: npt.NDArray[np.float32] = resized[0, 0].numpy()
    return values
