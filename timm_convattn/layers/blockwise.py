"""Relative attention on a CPU: a block of queries at a time, so that the logits never leave the cache.

Logits, position terms included, are computed per block of queries, and recomputed in the backward pass (as in
"FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", arXiv:2205.14135). Beyond inputs and
outputs this takes the memory of one block of queries, whatever the size of the map. Weights that fit into one block
are kept for the backward pass. Tensors stay in the layout of a convolution, channels before positions.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

__all__ = ['blockwise_attention']

BLOCK_LOGITS = 2**18  # one MiB of float32, which a core's cache holds
VECTOR = 64  # queries that torch's loops take at once
LOG_2 = math.log(2)


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
    """Split the queries of all heads into blocks whose logits fit into the cache."""
    many = max(1, min(heads, BLOCK_LOGITS // positions**2))
    queries = positions
    if many == 1 and positions**2 > BLOCK_LOGITS:
        queries = max(1, BLOCK_LOGITS // positions)
        queries -= queries % VECTOR if queries > VECTOR else 0
    for head in range(0, heads, many):
        for query in range(0, positions, queries):
            yield slice(head, head + many), slice(query, query + queries)


def _buffer(q: torch.Tensor) -> torch.Tensor:
    heads, _, positions = q.shape
    return q.new_empty(min(max(BLOCK_LOGITS, positions), heads * positions**2))


def _view(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    return buffer[: math.prod(shape)].view(shape)


@lru_cache(maxsize=64)
def _offset_rows(height: int, width: int) -> torch.Tensor:
    """Return the rows of the two concatenated tables that each position reads, for every index along both axes.

    Returns:
        (H + W, N), row `size - 1 + offset` of a table is that of `offset`.
    """
    with torch.inference_mode(False):  # cached, and used in every mode
        ys, xs = torch.arange(height), torch.arange(width)
        rows = (ys.unsqueeze(1) - ys + (height - 1)).repeat_interleave(width, 1)
        columns = (xs.unsqueeze(1) - xs + (width - 1)).repeat(1, height) + (2 * height - 1)
        return torch.cat([rows, columns])


def _logits(
    q: torch.Tensor,
    k: torch.Tensor,
    tables: torch.Tensor,
    scale: float,
    offsets: torch.Tensor,
    height: int,
    buffer: torch.Tensor,
    less: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the logits of a block.

    Args:
        q: (heads, d, queries)
        k: (heads, d, N)
        tables: (2 * H - 1 + 2 * W - 1, d)
        scale: Of the logits.
        offsets: (H + W, queries) rows of the tables.
        height: H
        buffer: Memory for the result. Allocating it for each block would take longer than the computation.
        less: (heads, 1, queries) subtracted from all logits of a query.

    Returns:
        (heads, N, queries): queries come last, so that each position term is added to a contiguous row.
    """
    by_offset = ((tables * scale) @ q).gather(1, offsets.expand(len(q), *offsets.shape))
    rows, columns = by_offset[:, :height], by_offset[:, height:]
    rows = (rows if less is None else rows - less).unsqueeze(2)
    logits = _view(buffer, len(q), k.shape[2], q.shape[2])
    torch.add(rows, columns.unsqueeze(1), out=logits.unflatten(1, (height, -1)))
    return logits.baddbmm_(k.transpose(1, 2), q, alpha=scale)


def _are_small(q: torch.Tensor, k: torch.Tensor, tables: torch.Tensor, scale: float) -> bool:
    """Return whether all powers of two of logits, and their sums, are certain to be in the range of float32."""
    longest_q, longest_k, longest_row = (x.square().sum(-2).max().sqrt() for x in (q, k, tables.t()))
    return bool(scale / LOG_2 * longest_q * (longest_k + 2 * longest_row) < 60)


class _BlockwiseAttention(torch.autograd.Function):
    """The same for (B * num_heads, channels, N) and concatenated tables."""

    @staticmethod
    def forward(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        tables: torch.Tensor,
        height: int,
        width: int,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the output, and the weights if they fit into one block, else the logarithms of their divisors."""
        offsets, buffer = _offset_rows(height, width), _buffer(q)
        with torch.autocast('cpu', enabled=False):
            if len(q) * q.shape[2] ** 2 <= BLOCK_LOGITS:
                logits = _logits(q, k, tables, scale, offsets, height, buffer)
                weights = torch.softmax(logits, dim=1, out=logits)
                return torch.bmm(v, weights), weights, q.new_empty(0)

            # powers of two are several times faster than those of e; the maximum is skipped where none can be large
            out, divisors, small = torch.empty_like(v), torch.empty_like(q[:, :1]), _are_small(q, k, tables, scale)
            for heads, queries in _blocks(len(q), q.shape[2]):
                block = heads, slice(None), queries
                logits = _logits(q[block], k[heads], tables, scale / LOG_2, offsets[:, queries], height, buffer)
                largest = 0.0 if small else logits.amax(1, keepdim=True)
                weights = (logits if small else logits.sub_(largest)).exp2_()
                total = weights.sum(1, keepdim=True)
                torch.div(torch.bmm(v[heads], weights), total, out=out[block])
                torch.add(largest, total.log2(), out=divisors[block])
        return out, q.new_empty(0), divisors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Save what the backward pass needs; at most one block of weights."""
        *tensors, height, width, scale = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output)
        ctx.size, ctx.scale = (height, width), scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients, and the weights again where they were not saved."""
        q, k, v, tables, out, kept, divisors = ctx.saved_tensors
        (height, width), scale = ctx.size, ctx.scale
        offsets, d_buffer = _offset_rows(height, width), _buffer(q)
        buffer = d_buffer if len(kept) else _buffer(q)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_tables = torch.zeros_like(tables)
        with torch.autocast('cpu', enabled=False):
            d_out = d_out.contiguous()  # a gradient may be an expanded scalar
            mean = (d_out * out).sum(1, keepdim=True)  # heads, 1, N: softmax's backward subtracts it
            for heads, queries in _blocks(len(q), q.shape[2]):
                block = heads, slice(None), queries
                q_block, d_block, weights = q[block], d_out[block], kept
                if len(kept) == 0:
                    weights = _logits(
                        q_block, k[heads], tables, scale / LOG_2, offsets[:, queries], height, buffer, divisors[block]
                    ).exp2_()
                d_v[heads].baddbmm_(d_block, weights.transpose(1, 2))
                d_logits = torch.bmm(v[heads].transpose(1, 2), d_block, out=_view(d_buffer, *weights.shape))
                d_logits.sub_(mean[block]).mul_(weights)
                d_k[heads].baddbmm_(q_block, d_logits.transpose(1, 2), alpha=scale)
                by_position = d_logits.unflatten(1, (height, width))
                by_offset = torch.cat([by_position.sum(2), by_position.sum(1)], dim=1)
                d_rows = by_offset.new_zeros(len(q_block), len(tables), q_block.shape[2])
                d_rows.scatter_(1, offsets[:, queries].expand(by_offset.shape), by_offset)
                d_tables.add_(torch.einsum('hon,hdn->od', d_rows, q_block), alpha=scale)
                d_q_block = (tables.t() @ d_rows).baddbmm_(k[heads], d_logits)
                torch.mul(d_q_block, scale, out=d_q[block])
        return d_q, d_k, d_v, d_tables, None, None, None
