"""A model that is looked into: its maps, its logits, and everything about it left as it was."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from timm_convattn.errors import InputError
from timm_convattn.layers import ConvAttn

__all__ = ['FeatureMap', 'Run', 'evaluating', 'frozen', 'linear_classifier', 'run_once']


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into its own mode in the end.

    Activations are not recomputed meanwhile: timm's checkpointing calls blocks without the layers that hold them.
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
    """Keep gradients away from the parameters; what they had before, they have again in the end."""
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
    """A map that a model makes of an image on its way to the logits."""

    layer: nn.Module
    """The layer that makes it."""
    name: str
    """Its name in the model."""
    feat_size: tuple[int, int]
    """Height and width, in positions."""
    channels_last: bool
    """Whether it is (B, H, W, C)."""


@dataclass(frozen=True)
class Run:
    """What is seen when a model classifies one image."""

    logits: torch.Tensor
    """What it gives, (1, num_classes) of a classifier."""
    maps: tuple[FeatureMap, ...]
    """Its maps, from the first to the last."""
    classifier_input: torch.Tensor | None
    """(num_features,) that the linear classifier read, None where there is no such classifier."""


def run_once(model: nn.Module, images: torch.Tensor) -> Run:
    """Classify one image and keep what comes by.

    Args:
        model: The model.
        images: (1, C, H, W), as it takes them.

    Raises:
        InputError: If it makes no maps.
    """
    named, outputs, inputs = _map_layers(model), dict[str, Any](), list[torch.Tensor]()
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
            f'{type(model).__name__} makes no maps of an image that could be shown over it. Give a model of timm with '
            'feature maps, such as resnet50, or one of timm_convattn.'
        )
    is_vector = len(inputs) == 1 and inputs[0].ndim == 2
    return Run(logits, found, inputs[0][0] if is_vector else None)


def linear_classifier(model: Any) -> nn.Linear | None:
    """Give the linear layer that timm says makes the logits, None where something else makes them."""
    classifier = model.get_classifier() if hasattr(model, 'get_classifier') else None
    return classifier if isinstance(classifier, nn.Linear) else None


def _map_layers(model: nn.Module) -> dict[str, int]:
    """Name the layers that make maps, and their channels: as timm lists them, or else all forms."""
    info: Any = getattr(model, 'feature_info', None)
    if isinstance(info, list):
        modules = {name for name, _ in model.named_modules()}
        return {each['module']: each['num_chs'] for each in info if each.get('module') in modules}
    return {name: module.num_features for name, module in model.named_modules() if isinstance(module, ConvAttn)}


def _as_map(model: nn.Module, name: str, output: Any, channels: int) -> FeatureMap | None:
    """Describe what a layer gave, None if that is no map of its channels, but a sequence of tokens, for instance."""
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        return None
    layer, shape = model.get_submodule(name), output.shape
    if shape[1] == channels:
        return FeatureMap(layer, name, (shape[2], shape[3]), channels_last=False)
    if shape[3] == channels:
        return FeatureMap(layer, name, (shape[1], shape[2]), channels_last=True)
    return None
