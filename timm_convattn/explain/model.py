"""A forward pass whose feature maps, logits and classifier input are recorded; the model is left unchanged."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from timm_convattn.errors import InputError
from timm_convattn.layers import ConvAttn

__all__ = ['FeatureMap', 'ForwardPass', 'evaluating', 'frozen', 'linear_classifier', 'run_forward']


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and restore the mode of each module at the end.

    Gradient checkpointing is off meanwhile: timm's checkpointed forward skips the modules that the hooks are on.
    """
    modes = [(module, module.training) for module in model.modules()]
    checkpointed: list[Any] = [module for module in model.modules() if getattr(module, 'grad_checkpointing', False)]
    model.eval()
    try:
        for module in checkpointed:
            module.grad_checkpointing = False
        yield
    finally:
        for module in checkpointed:
            module.grad_checkpointing = True
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the parameters, and restore `requires_grad` and their gradients at the end."""
    states = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in states:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires_grad, grad in states:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


@dataclass(frozen=True)
class FeatureMap:
    """A feature map that a model computes for an image."""

    layer: nn.Module
    """Layer whose output it is."""
    name: str
    """Name of the layer in the model."""
    feat_size: tuple[int, int]
    """Height and width, in positions."""
    channels_last: bool
    """Whether it is (B, H, W, C)."""


@dataclass(frozen=True)
class ForwardPass:
    """What was recorded while a model classified one image."""

    logits: torch.Tensor
    """Output of the model, (1, num_classes) for a classifier."""
    maps: tuple[FeatureMap, ...]
    """Feature maps, from the first to the last."""
    classifier_input: torch.Tensor | None
    """(num_features,) input of the linear classifier, None if there is no such classifier."""


def run_forward(model: nn.Module, images: torch.Tensor) -> ForwardPass:
    """Classify one image and record the forward pass.

    Args:
        model: The model.
        images: (1, C, H, W), the model's input.

    Raises:
        InputError: If the model computes no feature maps.
    """
    named, outputs, inputs = _map_layers(model), dict[str, object](), list[torch.Tensor]()
    classifier = linear_classifier(model)
    with ExitStack() as hooks:
        for name in named:
            handle = model.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: outputs.update({name: output})
            )
            hooks.callback(handle.remove)
        if classifier is not None:
            handle = classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
            hooks.callback(handle.remove)
        with evaluating(model), torch.no_grad():
            logits: torch.Tensor = model(images)
    maps = [_as_map(model, name, outputs.get(name), channels) for name, channels in named.items()]
    found = tuple(feature_map for feature_map in maps if feature_map is not None)
    if not found:
        raise InputError(
            f'{type(model).__name__} has no feature maps that could be drawn over an image. Give a timm model with '
            'feature maps, such as resnet50, or one of timm_convattn.'
        )
    is_vector = len(inputs) == 1 and inputs[0].ndim == 2
    return ForwardPass(logits, found, inputs[0][0] if is_vector else None)


def linear_classifier(model: Any) -> nn.Linear | None:
    """Return the linear layer that timm states as the classifier, None if it is something else."""
    classifier = model.get_classifier() if hasattr(model, 'get_classifier') else None
    return classifier if isinstance(classifier, nn.Linear) else None


def _map_layers(model: nn.Module) -> dict[str, int]:
    """Return the channels of the layers that compute feature maps, by name: as timm lists them, or else all blocks."""
    info: Any = getattr(model, 'feature_info', None)
    if isinstance(info, list):
        modules = {name for name, _ in model.named_modules()}
        return {each['module']: each['num_chs'] for each in info if each.get('module') in modules}
    return {name: module.num_features for name, module in model.named_modules() if isinstance(module, ConvAttn)}


def _as_map(model: nn.Module, name: str, output: object, channels: int) -> FeatureMap | None:
    """Describe the output of a layer, None if it is no map of these channels, but tokens, for instance."""
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        return None
    layer, shape = model.get_submodule(name), output.shape
    if shape[1] == channels:
        return FeatureMap(layer, name, (shape[2], shape[3]), channels_last=False)
    if shape[3] == channels:
        return FeatureMap(layer, name, (shape[1], shape[2]), channels_last=True)
    return None
