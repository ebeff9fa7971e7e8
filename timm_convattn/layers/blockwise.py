"""Relative attention on a CPU: a block of queries at a time, so that the logits never leave the cache.

What a block needs is computed inside it, its position logits too, and again in the backward pass (as in
"FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", arXiv:2205.14135). Beyond what is of the
size of inputs and outputs there is the memory of one block, whatever the size of the map; weights that are one block
are kept for the backward pass. Everything stays in the layout in which a convolution gives it, channels before
positions.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

__all__ = ['blockwise_attention']

BLOCK_LOGITS = 2**18  # one MiB of float32, which a core's cache holds


def blockwise_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    height_rel: torch.Tensor,
    width_rel: torch.Tensor,
    scale: float = 1.0,
) -> torch.Tensor:
    """Attend with relative positions (Eq. 3), computed in float32 whatever the type of the input.

    Args:
        q: (B, num_heads, d, N)
        k: (B, num_heads, d, N)
        v: (B, num_heads, e, N)
        height_rel: (2 * H - 1, d), with N = H * W.
        width_rel: (2 * W - 1, d)
        scale: Of the logits.

    Returns:
        (B, num_heads, e, N)
    """
    height, width = (len(height_rel) + 1) // 2, (len(width_rel) + 1) // 2
    tensors = [*(x.flatten(0, 1) for x in (q, k, v)), torch.cat([height_rel, width_rel])]
    if q.dtype != torch.float64:
        tensors = [x.float() for x in tensors]
    out: torch.Tensor = _BlockwiseAttention.apply(*tensors, height, width, scale)[0]
    return out.view(*q.shape[:2], *out.shape[1:]).to(v.dtype)


def _blocks(heads: int, positions: int) -> Iterator[tuple[slice, slice]]:
    """Divide the queries of all heads, into some queries of some heads whose logits fit into the cache."""
    many = max(1, min(heads, BLOCK_LOGITS // positions**2))
    queries = positions if many > 1 else max(1, min(positions, BLOCK_LOGITS // positions))
    for head in range(0, heads, many):
        for query in range(0, positions, queries):
            yield slice(head, head + many), slice(query, query + queries)


def _buffer(q: torch.Tensor) -> torch.Tensor:
    """Give memory for the logits of the largest block."""
    heads, _, positions = q.shape
    return q.new_empty(min(max(BLOCK_LOGITS, positions), heads * positions**2))


@lru_cache(maxsize=64)
def _offset_rows(height: int, width: int) -> torch.Tensor:
    """Number the rows of both tables, one below the other, that a position needs for every place along both axes.

    Returns:
        (N, H + W), row `size - 1 + offset` of a table is that of `offset`.
    """
    with torch.inference_mode(False):  # it is kept, and used in every mode
        ys, xs = torch.arange(height), torch.arange(width)
        rows = (ys - ys.unsqueeze(1) + (height - 1)).repeat_interleave(width, 0)
        columns = (xs - xs.unsqueeze(1) + (width - 1)).repeat(height, 1) + (2 * height - 1)
        return torch.cat([rows, columns], dim=1)


def _weights(
    q: torch.Tensor,
    k: torch.Tensor,
    tables: torch.Tensor,
    scale: float,
    offsets: torch.Tensor,
    height: int,
    buffer: torch.Tensor,
) -> torch.Tensor:
    """Compute the attention weights of a block.

    Args:
        q: (heads, queries, d)
        k: (heads, d, N)
        tables: (2 * H - 1 + 2 * W - 1, d)
        scale: Of the logits.
        offsets: (queries, H + W) rows of the tables.
        height: H
        buffer: Memory for the result: fresh memory for each block would cost more than what is computed in it.

    Returns:
        (heads, queries, N)
    """
    by_offset = (q @ (tables.t() * scale)).gather(-1, offsets.expand(len(q), *offsets.shape))
    rows, columns = by_offset[..., :height].unsqueeze(3), by_offset[..., height:].unsqueeze(2)
    logits = _view(buffer, len(q), q.shape[1], k.shape[2])
    torch.add(rows, columns, out=logits.unflatten(2, (height, -1)))
    logits.baddbmm_(q, k, alpha=scale)
    return torch.softmax(logits, dim=-1, out=logits)


def _view(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    return buffer[: math.prod(shape)].view(shape)


class _BlockwiseAttention(torch.autograd.Function):
    """The same for (heads of all samples, channels, N), and the tables one below the other."""

    @staticmethod
    def forward(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        tables: torch.Tensor,
        height: int,
        width: int,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the output, and give the weights where all of them are one block."""
        offsets, out, buffer = _offset_rows(height, width), torch.empty_like(v), _buffer(q)
        with torch.autocast('cpu', enabled=False):
            for heads, queries in _blocks(len(q), q.shape[2]):
                q_block = q[heads, :, queries].transpose(1, 2).contiguous()
                weights = _weights(q_block, k[heads], tables, scale, offsets[queries], height, buffer)
                out[heads, :, queries] = torch.bmm(v[heads], weights.transpose(1, 2))
        return out, weights if len(weights) == len(q) and weights.shape[1] == q.shape[2] else q.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Keep what the gradients need; of the weights no more than one block."""
        *tensors, height, width, scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)
        ctx.size, ctx.scale = (height, width), scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients, and for them the weights once more, if they are not here."""
        q, k, v, tables, out, kept = ctx.saved_tensors
        (height, width), scale = ctx.size, ctx.scale
        offsets, d_buffer = _offset_rows(height, width), _buffer(q)
        buffer = d_buffer if len(kept) else _buffer(q)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_tables = torch.zeros_like(tables)
        with torch.autocast('cpu', enabled=False):
            mean = (d_out * out).sum(1).unsqueeze(2)  # heads, N, 1: what softmax takes off the gradient of its output
            for heads, queries in _blocks(len(q), q.shape[2]):
                q_block, d_block = q[heads, :, queries].transpose(1, 2).contiguous(), d_out[heads, :, queries]
                weights = kept
                if len(kept) == 0:
                    weights = _weights(q_block, k[heads], tables, scale, offsets[queries], height, buffer)
                d_v[heads].baddbmm_(d_block, weights)
                d_logits = torch.bmm(d_block.transpose(1, 2), v[heads], out=_view(d_buffer, *weights.shape))
                d_logits.sub_(mean[heads, queries]).mul_(weights)
                d_k[heads].baddbmm_(q_block.transpose(1, 2), d_logits, alpha=scale)
                by_place = d_logits.unflatten(2, (height, width))
                by_offset = torch.cat([by_place.sum(3), by_place.sum(2)], dim=2)
                d_rows = by_offset.new_zeros(*q_block.shape[:2], len(tables))
                d_rows.scatter_(-1, offsets[queries].expand(by_offset.shape), by_offset)
                d_tables.addmm_(d_rows.flatten(0, 1).t(), q_block.flatten(0, 1), alpha=scale)
                d_q_block = (d_rows @ tables).baddbmm_(d_logits, k[heads].transpose(1, 2))
                torch.mul(d_q_block.transpose(1, 2), scale, out=d_q[heads, :, queries])
        return d_q, d_k, d_v, d_tables, None, None, None
