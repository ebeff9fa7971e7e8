"""The attention layer against three others with relative positions: time, memory, and how they grow."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks.measure import (
    Measurements,
    Pair,
    compare,
    compare_values,
    fit_growth,
    peak_memory,
    seconds_of,
)
from timm_convattn.errors import InputError
from timm_convattn.layers import RelMha2d
from timm_convattn.results import Comparison, Growth

__all__ = ['CASES', 'PEERS', 'PadAndReshape', 'measure_attention']

# (batch, channels, side of the map, width of queries, keys and values), 8 heads: the maps of BoTNet and of the paper
CASES = (
    (8, 512, 14, 64),
    (2, 512, 28, 64),
    (1, 512, 56, 64),
    (32, 1024, 4, 256),
    (32, 512, 3, 64),
    (8, 2048, 7, 256),
)


class PadAndReshape(nn.Module):
    """The relative attention of Bello et al. (2019) as usually written: all logits, shifted by padding."""

    def __init__(self, dim: int, dim_out: int, side: int, num_heads: int = 8) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(dim, 3 * dim_out, 1, bias=False)
        self.tables = nn.Parameter(torch.randn(2, 2 * side - 1, dim_out // num_heads) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend: (B, dim, side, side) -> (B, dim_out, side, side)."""
        B, _, H, W = x.shape
        q, k, v = self.qkv(x).reshape(B, 3 * self.num_heads, -1, H, W).chunk(3, dim=1)
        q = (q * q.shape[2] ** -0.5).permute(0, 1, 3, 4, 2)  # B, heads, H, W, d
        logits = q.flatten(2, 3) @ k.flatten(3)
        logits = logits + _shifted(q, self.tables[1]).permute(0, 1, 2, 4, 3, 5).reshape(logits.shape)
        by_column = _shifted(q.transpose(2, 3), self.tables[0])  # B, heads, W, W', H, H'
        logits = logits + by_column.permute(0, 1, 4, 2, 5, 3).reshape(logits.shape)
        out = logits.softmax(-1) @ v.flatten(3).transpose(-2, -1)
        y: torch.Tensor = out.transpose(-2, -1).reshape(B, -1, H, W)
        return y


def _shifted(q: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Map logits by relative column to logits by column: (B, heads, H, W, d) -> (B, heads, H, H', W, W')."""
    B, heads, H, W, _ = q.shape
    relative = F.pad(q @ table.t(), [0, 1]).flatten(3)  # a zero after each row shifts the next row by one
    absolute = F.pad(relative, [0, W - 1]).view(B, heads, H, W + 1, 2 * W - 1)[..., :W, W - 1 :]
    return absolute.unsqueeze(3).expand(-1, -1, -1, H, -1, -1)


def _timm(dim: int, width: int, side: int) -> nn.Module:
    from timm.layers.bottleneck_attn import BottleneckAttn  # no public path in timm 1.0.31

    module: nn.Module = BottleneckAttn(dim, width, (side, side), num_heads=8, scale_pos_embed=True)
    return module


def _bottleneck_transformers(dim: int, width: int, side: int) -> nn.Module:
    try:
        from bottleneck_transformer_pytorch.bottleneck_transformer_pytorch import Attention
    except ImportError as error:
        raise InputError(f"A peer is missing ({error}). Install it: pip install 'timm-convattn[bench]'.") from error
    module: nn.Module = Attention(dim=dim, fmap_size=(side, side), heads=8, dim_head=width // 8, rel_pos_emb=True)
    return module


PEERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    'timm': _timm,
    'bottleneck-transformer-pytorch': _bottleneck_transformers,
    'pad and reshape': PadAndReshape,
}


def measure_attention(
    seconds: float, cases: Sequence[tuple[int, int, int, int]] = CASES, sides: Sequence[int] = (14, 28, 56)
) -> Measurements:
    """Compare our attention with its peers: time and memory of forward, and of forward and backward.

    Args:
        seconds: Duration of each comparison.
        cases: (batch, channels, side, width) of each.
        sides: Sides of the maps that the growth is fitted to.
    """
    comparisons = []
    for case in cases:
        for name, peer in PEERS.items():
            comparisons += _compare_with_backward(case, name, peer, seconds)
    return comparisons, _growth(sides)


def _compare_with_backward(
    case: tuple[int, int, int, int], name: str, peer: Callable[[int, int, int], nn.Module], seconds: float
) -> list[Comparison]:
    batch, dim, side, width = case
    title = f'{batch} x {dim} x {side} x {side}'

    def make(step: Callable[[nn.Module, torch.Tensor], Any]) -> Pair:
        x = torch.randn(batch, dim, side, side)
        ours, theirs = _ours(dim, width, side), peer(dim, width, side)
        return lambda: step(ours, x), lambda: step(theirs, x)

    comparisons = [
        compare(f'{title}, forward', name, lambda: make(_forward), seconds),
        compare(f'{title}, forward and backward', name, lambda: make(_train), seconds),
    ]
    for what, step in (('forward', _forward), ('forward and backward', _train)):
        ours, theirs = (peak_memory(function) / 2**20 for function in make(step))
        comparisons.append(compare_values(f'{title}, memory of {what}', name, ours, theirs, 'MiB'))
    return comparisons


def _ours(dim: int, width: int, side: int) -> nn.Module:
    return RelMha2d(dim, width, side, num_heads=8, attn_proj=False)


def _forward(module: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        module(x)


def _train(module: nn.Module, x: torch.Tensor) -> None:
    module(x.detach().requires_grad_()).sum().backward()


def _growth(sides: Sequence[int]) -> list[Growth]:
    """Fit time and memory of the attention of one image to the number of positions of its map."""
    found = []
    for what, step in (('forward', _forward), ('forward and backward', _train)):
        times: dict[float, float] = {}
        memory: dict[float, float] = {}
        for side in sides:
            module, x = _ours(512, 64, side), torch.randn(1, 512, side, side)
            memory[side**2] = peak_memory(lambda: step(module, x)) / 2**20  # noqa: B023  called immediately
            times[side**2] = min(seconds_of(lambda: step(module, x)) for _ in range(5)) * 1e3  # noqa: B023
        found.append(fit_growth(f'time of {what}', 'positions', 'ms', times))
        found.append(fit_growth(f'memory of {what}', 'positions', 'MiB', memory))
    return found
