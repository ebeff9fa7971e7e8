"""The attention weights of a model as maps."""

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
    """(B, num_heads, H, W, H, W): weight of each key position for each query position; sums to 1 over the last two."""

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return self.weights.shape[1]

    @property
    def feat_size(self) -> tuple[int, int]:
        """Height and width of the map, in positions."""
        return self.weights.shape[2], self.weights.shape[3]

    def per_head(self, query: tuple[int, int] | None = None) -> torch.Tensor:
        """Return the attention to each position, by head.

        Args:
            query: Row and column of the query position in the map. None: the mean over all query positions.

        Returns:
            (B, num_heads, H, W), sums to 1 over each map.
        """
        if query is None:
            return self.weights.mean(dim=(2, 3))
        return self.weights[:, :, query[0], query[1]]

    def received(self, query: tuple[int, int] | None = None) -> torch.Tensor:
        """Return the attention to each position, as a mean over the heads.

        Args:
            query: Row and column of the query position in the map. None: the mean over all query positions.

        Returns:
            (B, H, W), sums to 1 over each image.
        """
        return self.per_head(query).mean(dim=1)

    def over_image(
        self, size: tuple[int, int], position: tuple[int, int] | None = None, head: int | None = None
    ) -> torch.Tensor:
        """Return the attention to each pixel of the image, as a multiple of uniform attention.

        Args:
            size: Height and width of the image, in pixels.
            position: Row and column of the pixel whose attention is returned. None: the mean over all positions.
            head: Index of the head. None: the mean over all heads.

        Returns:
            (B, height, width)
        """
        query = None if position is None else self.query_at(position, size)
        attention = self.received(query) if head is None else self.per_head(query)[:, head]
        relative = attention * attention.shape[-1] * attention.shape[-2]
        return F.interpolate(relative.unsqueeze(1), size=size, mode='bilinear', align_corners=False)[:, 0]

    def query_at(self, position: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Return row and column of the map that contain a pixel of an image of `size`."""
        (height, width), (row, column) = self.feat_size, position
        return row * height // size[0], column * width // size[1]


def attention_maps(model: nn.Module, images: torch.Tensor) -> list[AttentionMap]:
    """Run a model in eval mode and return the attention weights of its layers, in the order in which they run.

    Args:
        model: Any model that contains `RelMha2d`.
        images: (B, C, H, W), the model's input.

    Raises:
        ValueError: If the model has no such attention.
    """
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, RelMha2d)}
    if not attentions:
        raise ValueError(f'{type(model).__name__} has no relative multi-head attention.')
    maps: list[AttentionMap] = []
    with ExitStack() as recording, evaluating(model), torch.no_grad():
        for name, module in attentions.items():
            recording.enter_context(_record(name, module, maps))
        model(images)
    return maps


@contextmanager
def _record(name: str, module: RelMha2d, maps: list[AttentionMap]) -> Iterator[None]:
    """Have a layer compute its weights without the fused kernel, and append them to `maps`."""
    fused, size = module.fused_attn, [0, 0]

    def record_size(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        size[:] = args[0].shape[-2:]

    def record_weights(_: nn.Module, args: tuple[torch.Tensor, ...], weights: torch.Tensor) -> None:
        maps.append(AttentionMap(name, weights.reshape(*weights.shape[:2], *size, *size).clone()))

    hooks = [
        module.register_forward_pre_hook(record_size),
        module.attn_drop.register_forward_hook(record_weights),
    ]
    _set_fused(module, False)
    try:
        yield
    finally:
        _set_fused(module, fused)
        for hook in hooks:
            hook.remove()


def _set_fused(module: Any, fused: bool) -> None:
    module.fused_attn = fused
