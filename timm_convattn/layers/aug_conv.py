"""The attention-augmented convolution, the paper's baseline ("AAVGG16", "AAResNet50").

Paper: "Attention Augmented Convolutional Networks", arXiv:1904.09925 (Bello et al., 2019), section 3.2.
"""

import math
from typing import Any, Self

import torch
import torch.nn as nn

from timm_convattn.layers.conv_attn import downsample
from timm_convattn.layers.rel_mha import FactoryArgs, RelMha2d, attention_widths

__all__ = ['AugConv2d']


class AugConv2d(nn.Conv2d):
    """A convolution, some of whose output channels are computed by relative multi-head attention.

    concat(conv(X), RelMha2d(X)), with as many channels as the convolution that it replaces: the convolution keeps its
    first `out_channels - v_ratio * out_channels` filters, the attention computes the rest. With stride 2 the
    attention's output is pooled to the size of the convolution's.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, convolution and attention together (F_out).
        kernel_size: Kernel size of the convolution.
        feat_size: Height and width of the input map that the position tables are built for, in positions.
        stride: Stride of the convolution, 1 or 2.
        padding: Padding of the convolution, which must keep the size at stride 1.
        dilation: Dilation of the convolution.
        bias: Whether the convolution has a bias.
        num_heads: Attention heads (N_h).
        qk_ratio: Query and key channels over `out_channels` (d_k / F_out).
        v_ratio: Value channels over `out_channels` (d_v / F_out).
        **attn_args: `qkv_bias`, `rel_pos`, `attn_proj`, `attn_drop`, `proj_drop` of the attention.

    Shape:
        x: (B, in_channels, H, W) -> (B, out_channels, H', W')

    Raises:
        ValueError: If the heads cannot share the widths equally, or the ratios leave the convolution no filter.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        feat_size: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        num_heads: int = 8,
        qk_ratio: float = 0.125,
        v_ratio: float = 0.125,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **attn_args: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        dim_head, dim_attn = attention_widths(out_channels, num_heads, qk_ratio, v_ratio)
        if dim_attn >= out_channels:
            raise ValueError(f'v_ratio={v_ratio} leaves no filter to the convolution, it must be below 1.')
        super().__init__(in_channels, out_channels - dim_attn, kernel_size, stride, padding, dilation, bias=bias, **dd)
        self.attn = RelMha2d(
            in_channels,
            dim_attn,
            feat_size,
            num_heads=num_heads,
            dim_head=dim_head,
            **attn_args,
            **dd,
        )
        self.pool = downsample(stride, ceil=True)

    @classmethod
    def in_place_of(cls, conv: nn.Conv2d, feat_size: tuple[int, int], **kwargs: Any) -> Self:
        """Return a replacement for a convolution, with its widths, stride and padding, for a map of `feat_size`.

        Raises:
            ValueError: If the convolution is grouped, or not the same along both axes.
        """
        settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        if conv.groups != 1 or any(len(set(setting)) > 1 for setting in settings):
            raise ValueError(f'{conv} is grouped or not the same along both axes: attention cannot be added to it.')
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            feat_size,
            stride=conv.stride[0],
            padding=conv.padding[0],  # type: ignore[arg-type]
            dilation=conv.dilation[0],
            bias=conv.bias is not None,
            **kwargs,
        )

    def output_size(self, feat_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the output for a map of `feat_size`."""
        return math.ceil(feat_size[0] / self.stride[0]), math.ceil(feat_size[1] / self.stride[1])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Concatenate the convolution and the attention."""
        convolved = self._conv_forward(input, self.weight, self.bias)
        return torch.cat([convolved, self.pool(self.attn(input))], dim=1)
