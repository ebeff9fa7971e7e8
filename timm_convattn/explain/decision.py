"""The explanation of one decision."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from timm_convattn.errors import InputError
from timm_convattn.explain.attention import attention_maps
from timm_convattn.explain.contributions import split_logits
from timm_convattn.explain.explanation import Explanation
from timm_convattn.explain.grad_cam import choose_map, compute_grad_cam, has_grad_cam
from timm_convattn.explain.input_image import image_pixels, restore_input
from timm_convattn.explain.model import run_forward
from timm_convattn.layers import RelMha2d

__all__ = ['explain']


def explain(
    model: nn.Module,
    images: torch.Tensor,
    class_names: Sequence[str],
    label: str | None = None,
    position: tuple[int, int] | None = None,
    input_image: Image.Image | None = None,
    temperature: float = 1.0,
) -> Explanation:
    """Explain a model's decision about one image. The model is left unchanged.

    Without the library grad-cam (extra: explain) there is no Grad-CAM.

    Args:
        model: A model with feature maps: one of timm, with or without this package's attention, or any network that
            contains a `ConvAttn`.
        images: (1, C, H, W), the model's input.
        class_names: Names of the classes, in the order of the logits.
        label: Class to explain. None: the predicted one.
        position: Row and column of the pixel of `input_image` whose attention is shown. None: the mean over all
            positions.
        input_image: Image to draw the maps over, of any size, with exactly the content of `images`. None: `images`.
        temperature: Divisor of the logits for the probabilities (`Classifier.temperature`).

    Raises:
        InputError: If the model has no feature map (a ViT) or other classes, there is no such class or position, or
            there are several images.
    """
    if images.ndim != 4 or len(images) != 1:
        raise InputError(f'images is {tuple(images.shape)}, wanted one image, (1, C, H, W): explain one at a time.')
    pixels = restore_input(model, images) if input_image is None else image_pixels(input_image)
    has_attention = any(isinstance(module, RelMha2d) for module in model.modules())
    _check_position(position, pixels.shape[:2], has_attention)
    forward = run_forward(model, images)
    logits = _check_logits(forward.logits, class_names)
    index = _class_index(label, logits, class_names)
    cam, split = None, split_logits(model, forward)
    if has_grad_cam():
        cam = _resize(compute_grad_cam(model, images, index, choose_map(forward.maps)), pixels.shape[:2])
    others = logits.clone()
    others[index] = -torch.inf
    return Explanation(
        class_names=tuple(class_names),
        probabilities=(logits / temperature).softmax(0).numpy(),
        label=class_names[index],
        input_image=pixels,
        attention=tuple(attention_maps(model, images)) if has_attention else (),
        position=position,
        grad_cam=cam,
        contributions=split[index] if split else None,
        margin=split[index] - split[int(others.argmax())] if split and len(split) > 1 else None,
    )


def _check_position(position: tuple[int, int] | None, size: tuple[int, ...], has_attention: bool) -> None:
    if position is None:
        return
    if not has_attention:
        raise InputError('A position was given, but the model has no attention. Leave the position out.')
    if not all(0 <= index < side for index, side in zip(position, size, strict=True)):
        raise InputError(
            f'position is row {position[0]}, column {position[1]}, but the image has {size[0]} rows and {size[1]} '
            'columns, counted from 0.'
        )


def _check_logits(logits: torch.Tensor, class_names: Sequence[str]) -> torch.Tensor:
    """Return the logits (num_classes,), one for each name."""
    if logits.shape != (1, len(class_names)):
        raise InputError(
            f'The model returns {tuple(logits.shape)} for one image, wanted (1, {len(class_names)}), a logit for each '
            f'of the classes {", ".join(class_names)}. Give a classifier and the names of its classes.'
        )
    return logits[0].float().cpu()


def _class_index(label: str | None, logits: torch.Tensor, class_names: Sequence[str]) -> int:
    if label is None:
        return int(logits.argmax())
    if label not in class_names:
        raise InputError(f'There is no class {label!r}, the classes are {", ".join(class_names)}.')
    return list(class_names).index(label)


def _resize(pixels: npt.NDArray[np.float32], size: tuple[int, ...]) -> npt.NDArray[np.float32]:
    resized = F.interpolate(torch.from_numpy(pixels)[None, None], size=size, mode='bilinear', align_corners=False)
    values: npt.NDArray[np.float32] = resized[0, 0].numpy()
    return values
