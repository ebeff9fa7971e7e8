"""What a model costs: parameters, multiply-accumulates, and the maps that its attention reads. Counted, not timed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, cast

import timm
import torch
import torch.nn as nn
from timm.layers import to_2tuple
from torch.utils.flop_counter import FlopCounterMode

from timm_convattn.layers import RelMha2d

__all__ = ['Complexity', 'complexity_record', 'measure_complexity']


@dataclass(frozen=True)
class Complexity:
    """What one image of one size costs."""

    macs: int
    """Multiply-accumulates of convolutions and matrix products, positions included."""
    attention_maps: list[tuple[int, int]]
    """Height and width of the map that each attention reads, in positions."""


def measure_complexity(model: nn.Module, img_size: int | tuple[int, int]) -> Complexity:
    """Count what a model computes for one image.

    Args:
        model: On the meta device: there the counter sees every product, whatever kernel another device would take.
        img_size: Height and width of the image, in pixels.

    Raises:
        ValueError: If the model is on another device.
    """
    if any(parameter.device.type != 'meta' for parameter in model.parameters()):
        raise ValueError("The model is on a device with data, wanted timm.create_model(..., device='meta').")
    maps: list[tuple[int, int]] = []
    attentions = [module for module in model.modules() if isinstance(module, RelMha2d)]
    for attention in attentions:
        attention.fused_attn = False  # type: ignore[misc]  # count what the formula says, not what a kernel pads
    hooks = [
        attention.register_forward_pre_hook(lambda _, args: maps.append((args[0].shape[2], args[0].shape[3])))
        for attention in attentions
    ]
    image = torch.empty(1, cast(int, model.in_chans), *to_2tuple(img_size), device='meta')
    try:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    return Complexity(counter.get_total_flops() // 2, maps)


def complexity_record(
    names: Sequence[str], img_sizes: Sequence[int] = (60, 224), num_classes: int = 4
) -> dict[str, Any]:
    """Measure models with their default arguments, for a results file.

    Args:
        names: Registered models that take any of the sizes.
        img_sizes: Sides of the images, in pixels.
        num_classes: Classes of each model; four in the paper.

    Returns:
        The settings, the versions and, by name, parameters and what each size costs.
    """
    models = {}
    for name in names:
        model = timm.create_model(name, num_classes=num_classes, device='meta')
        models[name] = {
            'parameters': sum(parameter.numel() for parameter in model.parameters()),
            'sizes': {str(size): asdict(measure_complexity(model, size)) for size in img_sizes},
        }
    versions = {package: version(package) for package in ('timm-convattn', 'timm', 'torch')}
    return {'num_classes': num_classes, 'versions': versions, 'models': models}
