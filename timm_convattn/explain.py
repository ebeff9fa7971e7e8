"""Where the attention of a model looks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm_convattn.layers import RelMha2d

__all__ = ['AttentionMap', 'attention_maps']


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of one layer (the softmax of Eq. 4), for a batch of images."""

    layer: str
    """Name of the layer in the model."""
    weights: torch.Tensor
    """(B, num_heads, H, W, H, W): how much each position looks at each position; sums to 1 over the last two."""

    def received(self) -> torch.Tensor:
        """Give how much is looked at each position, as a mean over heads and over the positions that look.

        Returns:
            (B, H, W), sums to 1 over each image.
        """
        return self.weights.mean(dim=(1, 2, 3))

    def over_image(self, size: tuple[int, int]) -> torch.Tensor:
        """Give `received` at the size of the image, in multiples of what an even look would give.

        Args:
            size: Height and width, in pixels.

        Returns:
            (B, height, width)
        """
        received = self.received()
        relative = received * received.shape[-1] * received.shape[-2]
        return F.interpolate(relative.unsqueeze(1), size=size, mode='bilinear', align_corners=False)[:, 0]


def attention_maps(model: nn.Module, images: torch.Tensor) -> list[AttentionMap]:
    """Run a model in eval mode and give the attention weights of each of its layers, in the order in which they run.

    Args:
        model: Any model that has `RelMha2d` in it.
        images: (B, C, H, W), as the model takes them.

    Raises:
        ValueError: If the model has no such attention.
    """
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, RelMha2d)}
    if not attentions:
        raise ValueError(f'{type(model).__name__} has no relative multi-head attention to look at.')
    maps: list[AttentionMap] = []
    was_training = model.training
    with ExitStack() as watched, torch.no_grad():
        for name, module in attentions.items():
            watched.enter_context(_watch(name, module, maps))
        model.eval()(images)
    model.train(was_training)
    return maps


@contextmanager
def _watch(name: str, module: RelMha2d, maps: list[AttentionMap]) -> Iterator[None]:
    """Have a layer compute its weights openly, and keep them."""
    fused, size = module.fused_attn, [0, 0]

    def note_size(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        size[:] = args[0].shape[-2:]

    def keep(_: nn.Module, args: tuple[torch.Tensor, ...], weights: torch.Tensor) -> None:
        maps.append(AttentionMap(name, weights.reshape(*weights.shape[:2], *size, *size).clone()))

    hooks = [module.register_forward_pre_hook(note_size), module.attn_drop.register_forward_hook(keep)]
    _set_fused(module, False)
    try:
        yield
    finally:
        _set_fused(module, fused)
        for hook in hooks:
            hook.remove()


def _set_fused(module: Any, fused: bool) -> None:
    module.fused_attn = fused
