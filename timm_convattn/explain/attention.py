"""Where the attention of a model looks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from timm_convattn.explain.model import evaluating
from timm_convattn.layers import RelMha2d

__all__ = ['AttentionMap', 'attention_maps']


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of one layer (the softmax of Eq. 4), for a batch of images."""

    layer: str
    """Name of the layer in the model."""
    weights: torch.Tensor
    """(B, num_heads, H, W, H, W): how much each position looks at each position; sums to 1 over the last two."""

    @property
    def num_heads(self) -> int:
        """Give the number of heads."""
        return self.weights.shape[1]

    @property
    def feat_size(self) -> tuple[int, int]:
        """Give height and width of the map, in positions."""
        return self.weights.shape[2], self.weights.shape[3]

    def per_head(self, place: tuple[int, int] | None = None) -> torch.Tensor:
        """Give how much each head looks at each position.

        Args:
            place: Row and column of the position that looks, in positions of the map. None: the mean of all.

        Returns:
            (B, num_heads, H, W), sums to 1 over each map.
        """
        if place is None:
            return self.weights.mean(dim=(2, 3))
        return self.weights[:, :, place[0], place[1]]

    def received(self, place: tuple[int, int] | None = None) -> torch.Tensor:
        """Give how much is looked at each position, as a mean over the heads.

        Args:
            place: Row and column of the position that looks, in positions of the map. None: the mean of all.

        Returns:
            (B, H, W), sums to 1 over each image.
        """
        return self.per_head(place).mean(dim=1)

    def over_image(
        self, size: tuple[int, int], position: tuple[int, int] | None = None, head: int | None = None
    ) -> torch.Tensor:
        """Give how much is looked at each pixel of the image, in multiples of what an even look would give.

        Args:
            size: Height and width of the image, in pixels.
            position: Row and column of the pixel that looks, in this image. None: the mean of all positions.
            head: Which head looks. None: the mean of all heads.

        Returns:
            (B, height, width)
        """
        place = None if position is None else self.place_of(position, size)
        looks = self.received(place) if head is None else self.per_head(place)[:, head]
        relative = looks * looks.shape[-1] * looks.shape[-2]
        return F.interpolate(relative.unsqueeze(1), size=size, mode='bilinear', align_corners=False)[:, 0]

    def place_of(self, position: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Give row and column of the map that a pixel of an image of `size` lies in."""
        (height, width), (row, column) = self.feat_size, position
        return row * height // size[0], column * width // size[1]


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
    with ExitStack() as watched, evaluating(model), torch.no_grad():
        for name, module in attentions.items():
            watched.enter_context(_watch(name, module, maps))
        model(images)
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
