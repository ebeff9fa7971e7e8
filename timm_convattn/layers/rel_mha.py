"""Relative multi-head attention over a feature map (the paper's Eq. 1 to 4).

For a map of H x W positions, a position i at (y_i, x_i), and heads of d query and key channels:

    logits[i, j] = (q_i . k_j + q_i . rW[x_j - x_i] + q_i . rH[y_j - y_i]) / sqrt(d)

rH and rW are learned tables of 2H - 1 and 2W - 1 rows of width d, one pair for all heads of a layer.

The position terms need no N x N table. With bH_i = [q_i . rH[y - y_i]] over all y, and bW_i likewise over all x,
logits[i, j] is the dot product of [q_i, bH_i, bW_i] with [k_j, onehot(y_j), onehot(x_j)]: attention with longer
queries and keys and no mask, which any fused kernel computes. On a CPU `blockwise` is faster: it adds the terms to the
logits of a few queries at a time.
"""

from typing import Final, TypedDict

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import to_2tuple, trunc_normal_, use_fused_attn

from timm_convattn.layers.blockwise import blockwise_attention
from timm_convattn.layers.pointwise import PointwiseConv2d

__all__ = [
    'FactoryArgs',
    'RelMha2d',
    'attend',
    'attention_widths',
    'check_heads',
    'fold_positions',
    'position_logits',
    'position_tables',
    'resample_table',
]


class FactoryArgs(TypedDict):
    """Device and type of new parameters."""

    device: torch.device | str | None
    dtype: torch.dtype | None


def check_heads(name: str, width: int, num_heads: int) -> None:
    """Raise an error for a width that the heads cannot share equally.

    Args:
        name: Name of the width in the message.
        width: Channels to be shared.
        num_heads: Heads that share them.

    Raises:
        ValueError: If `num_heads` is not positive or does not divide `width`; the message lists valid values.
    """
    if num_heads < 1:
        raise ValueError(f'num_heads={num_heads} was given, it must be at least 1.')
    if width < 1 or width % num_heads:
        heads = ', '.join(str(n) for n in range(1, min(max(width, 0), 64) + 1) if width % n == 0) or 'none'
        below, above = width // num_heads * num_heads, -(-max(width, 1) // num_heads) * num_heads
        widths = ' or '.join(str(w) for w in (below, above) if w > 0)
        raise ValueError(
            f'{name} is {width}, which num_heads={num_heads} does not divide. '
            f'With {width} channels, num_heads can be {heads}; with {num_heads} heads, use {widths} channels.'
        )


def attention_widths(dim_out: int, num_heads: int, qk_ratio: float, v_ratio: float) -> tuple[int, int]:
    """Return the widths that the paper's ratios of D_out amount to.

    Args:
        dim_out: Channels that the ratios refer to (D_out).
        num_heads: Attention heads.
        qk_ratio: d_k / D_out
        v_ratio: d_v / D_out

    Returns:
        Query and key channels of one head, and value channels of all heads.

    Raises:
        ValueError: If the heads cannot share the channels equally.
    """
    dim_qk, dim_v = round(dim_out * qk_ratio), round(dim_out * v_ratio)
    check_heads(f'qk_ratio={qk_ratio} of {dim_out} channels', dim_qk, num_heads)
    check_heads(f'v_ratio={v_ratio} of {dim_out} channels', dim_v, num_heads)
    return dim_qk // num_heads, dim_v


def position_tables(model: nn.Module) -> set[str]:
    """Return the names of the position tables, which are embeddings that weight decay should skip."""
    return {
        f'{name}.{table}'
        for name, module in model.named_modules()
        if isinstance(module, RelMha2d) and module.rel_pos
        for table in ('height_rel', 'width_rel')
    }


def resample_table(table: torch.Tensor, length: int) -> torch.Tensor:
    """Resample a table of relative positions to another length. The middle row (offset 0) stays in the middle.

    Args:
        table: (2 * size - 1, d)
        length: Number of rows. The native length returns the same values, bit for bit.

    Returns:
        (length, d)
    """
    return F.interpolate(table.t().unsqueeze(0), size=[length], mode='linear', align_corners=False)[0].t()


def position_logits(q: torch.Tensor, table: torch.Tensor, indices: torch.Tensor, size: int) -> torch.Tensor:
    """Compute one of the two position terms of Eq. 3: q_i . r[y - y_i] for every index y along an axis.

    Args:
        q: (B, num_heads, N, d)
        table: (2 * size - 1, d), row `size - 1 + offset` is r[offset].
        indices: (N, 1) index of each position along the axis.
        size: Length of the axis.

    Returns:
        (B, num_heads, N, size), in float16 minus the maximum of each query, so that every term is in range.
    """
    rows = torch.arange(size, device=q.device) - indices + (size - 1)  # N, size: the row of r[y - y_i]
    rows = rows.expand(q.shape[0], q.shape[1], q.shape[2], size)
    if q.dtype == torch.float16:
        return _half_position_logits(q, table, rows)
    return (q @ table.t()).gather(-1, rows)


def _half_position_logits(q: torch.Tensor, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Compute a position term within the range of float16, which the sums of the fused kernel could leave.

    The products are scaled by 1/256 while autocast keeps them in float16, and clamp at 16 million. Then the maximum of
    each query is subtracted from all its terms, which changes no weight; terms 65,504 below it have weight zero.

    Args:
        q: (B, num_heads, N, d)
        table: (2 * size - 1, d)
        rows: (B, num_heads, N, size) rows of the table.

    Returns:
        (B, num_heads, N, size)
    """
    smaller = ((q * 0.00390625) @ table.t()).clamp(-65504.0, 65504.0).gather(-1, rows)
    logits = smaller.float() * 256.0
    return (logits - logits.detach().amax(dim=-1, keepdim=True)).clamp(min=-65504.0).to(torch.float16)


def fold_positions(
    q: torch.Tensor, k: torch.Tensor, height_rel: torch.Tensor, width_rel: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengthen queries and keys so that their dot products are the logits, position terms included.

    Args:
        q: (B, num_heads, N, d), scaled.
        k: (B, num_heads, N, d)
        height_rel: Table for the height, of any size.
        width_rel: Table for the width, of any size.
        height: H
        width: W, with N = H * W.

    Returns:
        Both (B, num_heads, N, d + H + W).
    """
    ys, xs = torch.arange(height, device=q.device), torch.arange(width, device=q.device)
    rows = ys.unsqueeze(1).expand(height, width).reshape(height * width, 1)  # y_j of every position j
    columns = xs.expand(height, width).reshape(height * width, 1)  # x_j
    height_logits = position_logits(q, resample_table(height_rel, 2 * height - 1), rows, height)
    width_logits = position_logits(q, resample_table(width_rel, 2 * width - 1), columns, width)
    onehot = torch.cat([rows == ys, columns == xs], dim=1).to(k.dtype)
    onehot = onehot.expand(k.shape[0], k.shape[1], height * width, height + width)
    return torch.cat([q, height_logits, width_logits], dim=-1), torch.cat([k, onehot], dim=-1)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    height_rel: torch.Tensor,
    width_rel: torch.Tensor,
    height: int,
    width: int,
    scale: float,
) -> torch.Tensor:
    """Attend with relative positions (Eq. 3), in memory linear in the positions, with the fastest kernel of the device.

    On a CPU a block of queries at a time; elsewhere, and in every captured graph, with the fused kernel, which needs
    queries, keys and values padded to one width.

    Args:
        q: (B, num_heads, d, N)
        k: (B, num_heads, d, N)
        v: (B, num_heads, e, N)
        height_rel: Table for the height, of any size.
        width_rel: Table for the width, of any size.
        height: H
        width: W, with N = H * W.
        scale: Of the logits.

    Returns:
        (B, num_heads, e, N)
    """
    if not torch.jit.is_scripting():  # TorchScript skips this branch
        captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if q.device.type == 'cpu' and not captured:
            height_rel, width_rel = _sized(height_rel, 2 * height - 1), _sized(width_rel, 2 * width - 1)
            return blockwise_attention(q, k, v, height_rel, width_rel, scale)
    dim_v = v.shape[2]
    q, k, v = q.transpose(-2, -1) * scale, k.transpose(-2, -1), v.transpose(-2, -1)
    q, k = fold_positions(q, k, height_rel, width_rel, height, width)
    dim = (max(q.shape[-1], dim_v) + 7) // 8 * 8
    q, k, v = F.pad(q, [0, dim - q.shape[-1]]), F.pad(k, [0, dim - k.shape[-1]]), F.pad(v, [0, dim - dim_v])
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :dim_v].transpose(-2, -1)


torch.fx.wrap('attend')  # an fx leaf, so that the kernel is chosen at run time


def _sized(table: torch.Tensor, length: int) -> torch.Tensor:
    return table if len(table) == length else resample_table(table, length)


class RelMha2d(nn.Module):
    """Multi-head attention over a feature map with learned relative positions (Eq. 1 to 4).

    Source: "Augmented CNN models with relative multi-head attention for target recognition in infrared images".
    Queries and keys are `num_heads * dim_head` channels wide (d_k), values and output `dim_out` channels (d_v).
    Where the paper is silent: both position terms are scaled like the content term (as Eq. 4 writes it); the output
    projection W^a of Eq. 2, which Eq. 5 omits, is on by default and has a bias.

    Any H x W is accepted at run time: the tables are resampled to the map, and used unchanged at `feat_size`.

    Args:
        dim: Channels of the input.
        dim_out: Channels of the output, `dim` if None.
        feat_size: Height and width of the map that the position tables are built for, in positions.
        num_heads: Attention heads.
        dim_head: Query and key channels of one head, `dim_out * qk_ratio / num_heads` if None.
        qk_ratio: Query and key channels over `dim_out`, used where `dim_head` is None.
        qkv_bias: Whether the projections to queries, keys and values have a bias.
        rel_pos: Whether relative positions are used (False: the "None" row of the paper's Table 3).
        attn_proj: Whether the output is projected (W^a of Eq. 2).
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the output.

    Shape:
        x: (B, dim, H, W) -> (B, dim_out, H, W)

    Raises:
        ValueError: If the heads cannot share the channels equally, or `feat_size` is not positive.
    """

    rel_pos: Final[bool]
    fused_attn: Final[bool]

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        feat_size: int | tuple[int, int] = 7,
        num_heads: int = 8,
        dim_head: int | None = None,
        qk_ratio: float = 1.0,
        qkv_bias: bool = False,
        rel_pos: bool = True,
        attn_proj: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        super().__init__()
        dim_out = dim_out or dim
        height, width = to_2tuple(feat_size)
        if height < 1 or width < 1:
            raise ValueError(f'feat_size is {height} x {width}, both sides must be at least 1 position.')
        check_heads('The output of the attention (dim_out)', dim_out, num_heads)
        dim_qk = round(dim_out * qk_ratio) if dim_head is None else dim_head * num_heads
        check_heads('The width of queries and keys (dim_out * qk_ratio)', dim_qk, num_heads)
        self.dim_out = dim_out
        self.dim_qk = dim_qk
        self.num_heads = num_heads
        self.dim_head = dim_qk // num_heads
        self.scale = self.dim_head**-0.5
        self.rel_pos = rel_pos
        self.fused_attn = use_fused_attn()

        self.qkv = PointwiseConv2d(dim, 2 * dim_qk + dim_out, bias=qkv_bias, **dd)
        if rel_pos:
            self.height_rel = nn.Parameter(torch.empty(2 * height - 1, self.dim_head, **dd))
            self.width_rel = nn.Parameter(torch.empty(2 * width - 1, self.dim_head, **dd))
        else:
            self.register_parameter('height_rel', None)
            self.register_parameter('width_rel', None)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = PointwiseConv2d(dim_out, dim_out, **dd) if attn_proj else nn.Identity()
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize projections with a standard deviation of 1 / sqrt(fan-in), tables with 1 / sqrt(dim_head)."""
        for conv in (self.qkv, self.proj):
            if isinstance(conv, nn.Conv2d):
                trunc_normal_(conv.weight, std=conv.in_channels**-0.5)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        if self.rel_pos:
            trunc_normal_(self.height_rel, std=self.scale)
            trunc_normal_(self.width_rel, std=self.scale)

    def set_feat_size(self, feat_size: int | tuple[int, int]) -> None:
        """Rebuild the tables for another map size, by resampling the current ones."""
        if not self.rel_pos:
            return
        for name, size in zip(('height_rel', 'width_rel'), to_2tuple(feat_size), strict=True):
            table: nn.Parameter = getattr(self, name)
            if len(table) != 2 * size - 1:
                resampled = resample_table(table.detach(), 2 * size - 1).contiguous()
                setattr(self, name, nn.Parameter(resampled, requires_grad=table.requires_grad))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over all positions of the map."""
        B, _, H, W = x.shape
        q, k, v = self.qkv(x).split([self.dim_qk, self.dim_qk, self.dim_out], dim=1)
        q = q.reshape(B, self.num_heads, self.dim_head, H * W)
        k = k.reshape(B, self.num_heads, self.dim_head, H * W)
        v = v.reshape(B, self.num_heads, -1, H * W)

        dropout = self.attn_drop.p if self.training else 0.0
        if self.fused_attn and self.rel_pos and dropout == 0.0:
            out = attend(q, k, v, self.height_rel, self.width_rel, H, W, self.scale)
        else:
            q, k, v = q.transpose(-2, -1) * self.scale, k.transpose(-2, -1), v.transpose(-2, -1)  # B, heads, N, d
            if self.rel_pos:
                q, k = fold_positions(q, k, self.height_rel, self.width_rel, H, W)
            if self.fused_attn:
                out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=1.0)
            else:
                attn = self.attn_drop((q @ k.transpose(-2, -1)).softmax(dim=-1))  # B, heads, N, N
                out = attn @ v
            out = out.transpose(-2, -1)
        y: torch.Tensor = self.proj_drop(self.proj(out.reshape(B, self.dim_out, H, W)))
        return y
