"""Two things measured side by side: in one process, one thread, alternating, on a machine that does nothing else."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from timm_convattn.layers import RelMha2d

__all__ = ['ATTENTION_CASES', 'Row', 'attention_rows', 'compare', 'peak_memory']

# (batch, channels, side of the map, width of queries and keys and of values), 8 heads: BoTNet's maps and the paper's
ATTENTION_CASES = (
    (8, 512, 14, 64),
    (2, 512, 28, 64),
    (1, 512, 56, 64),
    (32, 1024, 4, 256),
    (32, 512, 3, 64),
    (8, 2048, 7, 256),
)


class Row(NamedTuple):
    """One comparison."""

    case: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    """ours / theirs, of the medians"""
    spread: float
    """Half the distance between the quartiles of the ratios of neighbouring measurements."""


def compare(
    case: str, peer: str, ours: Callable[[], Any], theirs: Callable[[], Any], seconds: float = 4.0, least: int = 7
) -> Row:
    """Time two functions in turns.

    Args:
        case: What is compared.
        peer: What it is compared with.
        ours: Called for its time.
        theirs: Likewise.
        seconds: For how long.
        least: How often each is called at least.

    Returns:
        Medians in milliseconds, their ratio, and how much neighbouring ratios differ.
    """
    times: list[tuple[float, float]] = []
    _seconds(ours), _seconds(theirs)  # allocate, and choose kernels
    started = time.perf_counter()
    while len(times) < least or time.perf_counter() - started < seconds:
        times.append((_seconds(ours), _seconds(theirs)))
    a, b = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    quartiles = statistics.quantiles([mine / other for mine, other in times], n=4)
    spread = (quartiles[2] - quartiles[0]) / 2
    return Row(case, peer, round(a, 3), round(b, 3), 'ms', round(a / b, 4), round(spread, 4))


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def peak_memory(function: Callable[[], Any]) -> int:
    """Measure by how many bytes tensors on the CPU grow while a function runs, at the most.

    Whatever torch allocates counts, inside of operators too; what there was before does not.
    """
    function()  # what is allocated once and kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    now = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == '[memory]':
            now += event.nbytes()
            most = max(most, now)
    return most


class PadAndReshape(nn.Module):
    """The relative attention of Bello et al. (2019) as it is usually written: all logits, shifted by padding."""

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
    """Logits by relative column to logits by column: (B, heads, H, W, d) -> (B, heads, H, H', W, W')."""
    B, heads, H, W, _ = q.shape
    relative = F.pad(q @ table.t(), [0, 1]).flatten(3)  # one zero behind each row shifts the next one by one
    absolute = F.pad(relative, [0, W - 1]).view(B, heads, H, W + 1, 2 * W - 1)[..., :W, W - 1 :]
    return absolute.unsqueeze(3).expand(-1, -1, -1, H, -1, -1)


def attention_rows(cases: Sequence[tuple[int, int, int, int]] = ATTENTION_CASES, seconds: float = 4.0) -> list[Row]:
    """Compare our attention with its peers, forward alone and with the backward pass, and the memory of both.

    Args:
        cases: (batch, channels, side, width) of each.
        seconds: How long each comparison may take.
    """
    from timm.layers.bottleneck_attn import BottleneckAttn  # no public path in timm 1.0.31

    rows = []
    for batch, dim, side, width in cases:
        torch.manual_seed(0)
        x = torch.randn(batch, dim, side, side)
        ours = RelMha2d(dim, width, side, num_heads=8, attn_proj=False)
        peers = {
            'timm BottleneckAttn': BottleneckAttn(dim, width, (side, side), num_heads=8, scale_pos_embed=True),
            'pad and reshape': PadAndReshape(dim, width, side),
        }
        for name, peer in peers.items():
            rows += _compare_modules(f'{batch} x {dim} x {side} x {side}', name, ours, peer, x, seconds)
    return rows


def _compare_modules(
    case: str, name: str, ours: nn.Module, peer: nn.Module, x: torch.Tensor, seconds: float
) -> list[Row]:
    """Compare two modules: time forward, time with the backward pass, memory with the backward pass."""

    def train(module: nn.Module) -> None:
        module(x.detach().requires_grad_()).sum().backward()

    with torch.inference_mode():
        forward = compare(f'{case}, forward', name, lambda: ours(x), lambda: peer(x), seconds)
    both = compare(f'{case}, forward and backward', name, lambda: train(ours), lambda: train(peer), seconds)
    memory = [peak_memory(lambda module=module: train(module)) / 2**20 for module in (ours, peer)]  # type: ignore[misc]
    ratio = memory[0] / memory[1]
    return [
        forward,
        both,
        Row(f'{case}, memory of both', name, round(memory[0], 3), round(memory[1], 3), 'MiB', round(ratio, 4), 0.0),
    ]
