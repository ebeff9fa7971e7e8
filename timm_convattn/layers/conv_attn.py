"""The convolution-attention block (Eq. 5 to 7) and the stage that stacks it (Fig. 3 and 4 of the paper).

For a feature map X:

    X'' = RelMha2d(X), pooled to the size of X'     (Eq. 5; X' is the output of the backbone's own convolutions)
    Y = BN(concat(X', X''))                         for networks without residual blocks (Eq. 6)
    Y = BN(concat(X + X', X''))                     for residual networks (Eq. 7): the residual block itself adds X
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict, Unpack, cast

import torch
import torch.nn as nn
from timm.layers import ConvNormAct, to_2tuple

from timm_convattn.layers.rel_mha import FactoryArgs, RelMha2d, attention_widths

__all__ = ['AttnArgs', 'ConvAttn', 'ConvAttnStage', 'Transition', 'added_parts', 'downsample', 'split_attn_args']


class AttnArgs(TypedDict, total=False):
    """Arguments of the attention path of a block, documented in `ConvAttn`."""

    num_heads: int
    qk_ratio: float
    v_ratio: float
    qkv_bias: bool
    rel_pos: bool
    attn_proj: bool
    attn_drop: float
    proj_drop: float


def split_attn_args(kwargs: dict[str, Any]) -> tuple[AttnArgs, dict[str, Any]]:
    """Split a model's arguments into those of the attention (`AttnArgs`) and the others."""
    attn_args = {name: kwargs[name] for name in AttnArgs.__annotations__ if name in kwargs}
    return cast(AttnArgs, attn_args), {name: value for name, value in kwargs.items() if name not in attn_args}


def downsample(stride: int, ceil: bool) -> nn.Module:
    """Build the paper's 3x3 average pool of stride 2, which brings X'' to the size of X'.

    With `ceil` a side of S becomes ceil(S / 2), as in a padded convolution of stride 2; without, floor(S / 2), as in a
    2x2 max pool. The windows are aligned with those of that layer. Padding is not counted. Where the last window of an
    even side lacks a row, the last row is repeated (`ceil_mode` would ignore it, but cannot be exported for all sizes).
    """
    if stride == 1:
        return nn.Identity()
    if stride != 2:
        raise ValueError(f'stride={stride} was given, the attention path can be pooled by 1 or 2.')
    if ceil:
        return nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    return nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(3, stride=2))


def _start_norm_as_identity(norm: nn.Module) -> None:
    """Make a fresh batch norm the identity in eval mode: the weight compensates for `eps`."""
    if isinstance(norm, nn.BatchNorm2d):
        norm.reset_parameters()
        nn.init.constant_(norm.weight, math.sqrt(1 + norm.eps))


class ConvAttn(nn.Module):
    """Convolution-attention block: two paths over one map, concatenated and batch-normalised (Eq. 5 to 7).

    "The block" for short; the paper calls it the "convolutional-attentional form". In eval mode a fresh block returns
    the output of its convolutional path unchanged in the first `dim_out` channels, and the attention's output in the
    `dim_attn` channels after them.

    Args:
        conv: The convolutional path, `dim` to `dim_out` channels. A residual block adds X itself (Eq. 7).
        dim: Channels of the input.
        dim_out: Channels of the convolutional path's output (D_out).
        feat_size: Height and width of the input map that the position tables are built for, in positions.
        stride: Stride of the convolutional path, 1 or 2.
        ceil: Whether the convolutional path rounds an odd size up (a strided convolution) or down (a max pool).
        num_heads: Attention heads (N_h).
        qk_ratio: Query and key channels over `dim_out` (d_k / D_out).
        v_ratio: Value channels, which are the attention's output channels, over `dim_out` (d_v / D_out).
        qkv_bias: Whether the projections to queries, keys and values have a bias.
        rel_pos: Whether the attention uses relative positions.
        attn_proj: Whether the attention projects its output (W^a of Eq. 2).
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the attention's output.
        norm_layer: Normalisation after the concatenation.

    Shape:
        x: (B, dim, H, W) -> (B, dim_out + dim_attn, H', W'), H' x W' being the size of the output of `conv`.

    Raises:
        ValueError: If the ratios give widths that the heads cannot share, or `stride` is neither 1 nor 2.
    """

    def __init__(
        self,
        conv: nn.Module,
        dim: int,
        dim_out: int,
        feat_size: int | tuple[int, int],
        stride: int = 1,
        ceil: bool = True,
        num_heads: int = 8,
        qk_ratio: float = 0.125,
        v_ratio: float = 0.125,
        qkv_bias: bool = False,
        rel_pos: bool = True,
        attn_proj: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        super().__init__()
        dim_head, dim_attn = attention_widths(dim_out, num_heads, qk_ratio, v_ratio)
        self.dim_out = dim_out
        self.dim_attn = dim_attn
        self.num_features = dim_out + dim_attn
        self.least_size = 1 if ceil else stride  # smallest side of the input map that leaves one position
        self.conv = conv
        self.attn = RelMha2d(
            dim,
            dim_attn,
            feat_size,
            num_heads=num_heads,
            dim_head=dim_head,
            qkv_bias=qkv_bias,
            rel_pos=rel_pos,
            attn_proj=attn_proj,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            **dd,
        )
        self.pool = downsample(stride, ceil)
        self.norm = norm_layer(self.num_features, **dd)
        # fewest values per channel in training: batch norm needs a variance
        self.least_values = 2 if isinstance(self.norm, nn.BatchNorm2d) else 1
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the normalisation as identity. The two paths initialize themselves."""
        _start_norm_as_identity(self.norm)

    def set_feat_size(self, feat_size: int | tuple[int, int]) -> None:
        """Rebuild the position tables for another size of the input map."""
        self.attn.set_feat_size(feat_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run both paths, concatenate (Eq. 6, 7), normalise."""
        torch._assert(
            x.shape[-2] >= self.least_size, 'The map is too low for this stage to halve it: enlarge the image.'
        )
        torch._assert(
            x.shape[-1] >= self.least_size, 'The map is too narrow for this stage to halve it: enlarge the image.'
        )
        attended: torch.Tensor = self.pool(self.attn(x))
        if self.norm.training:  # checked before the backbone's own batch norms raise a less helpful error
            torch._assert(
                attended.shape[0] * attended.shape[-2] * attended.shape[-1] >= self.least_values,
                'A single image whose map is a single position has no batch statistics: train with a larger batch or '
                'image, or call eval().',
            )
        y: torch.Tensor = self.norm(torch.cat([self.conv(x), attended], dim=1))
        return y


class Transition(ConvNormAct):
    """Convolution between two blocks ("3x3 Conv, 2048"): reduces `dim + dim_attn` channels to `dim`.

    It starts as identity on the first `dim` channels and zero on the attention's. In eval mode a fresh transition
    therefore returns the output of the convolutional path, if the activation keeps its values (ReLU after ReLU).

    Where the paper is silent: batch norm and activation follow the convolution, as everywhere in a ResNet; without an
    activation (`act_layer=None`) it is linear. A `kernel_size` of 1 costs a ninth of the parameters.

    Raises:
        ValueError: If `kernel_size` is even, which would shift the map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        act_layer: type[nn.Module] | None = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'transition_kernel={kernel_size} was given, it must be odd (3 in the paper).')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            apply_act=act_layer is not None,
            norm_layer=norm_layer,
            act_layer=act_layer or nn.ReLU,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as identity on the first channels and zero on the others."""
        nn.init.dirac_(self.conv.weight)
        _start_norm_as_identity(self.bn)


class ConvAttnStage(nn.Sequential):
    """Stage with one convolution-attention block for each block of a backbone's stage, and transitions between.

    The modules are ConvAttn, Transition, ConvAttn, ..., ConvAttn. The backbone's block i is the convolutional path of
    the module at index 2i. With one, it is the paper's VGG stage (Fig. 3); with three, its ResNet50 stage (Fig. 4).

        stage = ConvAttnStage(resnet.layer4, dim=1024, dim_out=2048, feat_size=14, stride=2)

    Args:
        blocks: The backbone's own blocks. The first takes `dim` channels, the others `dim_out`; all return `dim_out`.
        dim: Channels of the map that enters the stage.
        dim_out: Channels of the output of each of the backbone's blocks (D_out).
        feat_size: Height and width of the map that enters the stage, in positions.
        stride: Stride of the first of them, 1 or 2. The others keep the size.
        ceil: Whether the first of them rounds an odd size up (a strided convolution) or down (a max pool).
        transition_kernel: Kernel size of the transitions.
        norm_layer: Normalisation of blocks and transitions.
        act_layer: Activation of the transitions.
        **attn_args: `num_heads`, `qk_ratio`, `v_ratio` and the other arguments in `AttnArgs`.

    Shape:
        x: (B, dim, H, W) -> (B, num_features, H', W') with `num_features = dim_out + v_ratio * dim_out`

    Raises:
        ValueError: If `blocks` is empty, or `ConvAttn` or `Transition` raises it.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module] | nn.Sequential,
        dim: int,
        dim_out: int,
        feat_size: int | tuple[int, int],
        stride: int = 1,
        ceil: bool = True,
        transition_kernel: int = 3,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        act_layer: type[nn.Module] = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attn_args: Unpack[AttnArgs],
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        super().__init__()
        if len(blocks) == 0:
            raise ValueError('The stage got no blocks, it needs at least one to be its convolutional path.')
        self.num_features = dim_out
        self.stride = stride
        self.ceil = ceil
        for index, (conv, size) in enumerate(zip(blocks, self._feat_sizes(feat_size, len(blocks)), strict=True)):
            if index > 0:
                self.append(Transition(self.num_features, dim_out, transition_kernel, norm_layer, act_layer, **dd))
            block = ConvAttn(conv, dim, dim_out, size, stride, ceil, norm_layer=norm_layer, **attn_args, **dd)
            self.append(block)
            self.num_features = block.num_features
            dim, stride = dim_out, 1

    def set_feat_size(self, feat_size: int | tuple[int, int]) -> None:
        """Rebuild the position tables for another size of the map that enters the stage."""
        blocks = [module for module in self if isinstance(module, ConvAttn)]
        for block, size in zip(blocks, self._feat_sizes(feat_size, len(blocks)), strict=True):
            block.set_feat_size(size)

    def _feat_sizes(self, feat_size: int | tuple[int, int], num_blocks: int) -> list[tuple[int, int]]:
        """Return the size of the map that enters each block. The first block may halve it."""
        height, width = to_2tuple(feat_size)
        if self.ceil:
            halved = (math.ceil(height / self.stride), math.ceil(width / self.stride))
        else:
            halved = (height // self.stride, width // self.stride)
        return [(height, width), *[halved] * (num_blocks - 1)]


def added_parts(model: nn.Module) -> Iterator[str]:
    """Yield the name prefixes of the parts that a model adds to its backbone: attention, transitions, block norms."""
    for name, module in model.named_modules():
        if isinstance(module, RelMha2d | Transition):
            yield f'{name}.'
        elif isinstance(module, ConvAttn):
            yield f'{name}.norm.'
