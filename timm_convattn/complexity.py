"""Cost of a model: parameters, multiply-accumulates, and the maps that its attention reads. Counted, not timed."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import cast

import timm
import torch
import torch.nn as nn
from timm.layers import to_2tuple
from torch.utils.flop_counter import FlopCounterMode

from timm_convattn.layers import RelMha2d
from timm_convattn.results import Complexity, ModelCost, ModelCosts

__all__ = ['count_models', 'count_parameters', 'measure_complexity']


def measure_complexity(model: nn.Module, img_size: int | tuple[int, int]) -> Complexity:
    """Count the multiply-accumulates of a model for one image.

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
        attention.fused_attn = False  # type: ignore[misc]  # count the formula, not the padding of a kernel
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


def count_models(names: Sequence[str], img_sizes: Sequence[int] = (60, 224), num_classes: int = 4) -> ModelCosts:
    """Count parameters and multiply-accumulates of models with their default arguments.

    Args:
        names: Registered models that take any of the sizes.
        img_sizes: Sides of the images, in pixels.
        num_classes: Classes of each model; four in the paper.
    """
    models = {}
    for name in names:
        model = timm.create_model(name, num_classes=num_classes, device='meta')
        sizes = {str(size): measure_complexity(model, size) for size in img_sizes}
        models[name] = ModelCost(count_parameters(model), sizes)
    versions = {package: version(package) for package in ('timm-convattn', 'timm', 'torch')}
    return ModelCosts(num_classes, versions, models)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
