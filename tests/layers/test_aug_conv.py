"""The attention-augmented convolution against its definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from timm_convattn.layers import AugConv2d


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(6, 6), (5, 8)], ids=str)
def test_output_is_convolution_and_pooled_attention_side_by_side(stride, size):
    conv = AugConv2d(8, 16, 3, size, stride=stride, padding=1, num_heads=2, v_ratio=0.25, dtype=torch.float64)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    convolved = F.conv2d(x, conv.weight, conv.bias, stride, 1)
    attended = conv.attn(x)
    if stride == 2:
        attended = F.avg_pool2d(attended, 3, 2, 1, count_include_pad=False)
    assert (convolved.shape[1], attended.shape[1]) == (12, 4)
    torch.testing.assert_close(conv(x), torch.cat([convolved, attended], dim=1))


@pytest.mark.parametrize(
    'conv',
    [
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 16, 3, padding=2, dilation=2),
        nn.Conv2d(8, 16, 1),
    ],
    ids=str,
)
def test_it_replaces_a_convolution(conv):
    ours = AugConv2d.in_place_of(conv, (7, 6), num_heads=2, rel_pos=False)
    x = torch.randn(1, 8, 7, 6)
    assert ours(x).shape == conv(x).shape
    assert ours.output_size((7, 6)) == tuple(conv(x).shape[2:])
    assert (ours.bias is None) == (conv.bias is None)
    assert (ours.kernel_size, ours.padding, ours.dilation) == (conv.kernel_size, conv.padding, conv.dilation)
    assert not ours.attn.rel_pos


@pytest.mark.parametrize(
    'changed',
    [dict(groups=2), dict(kernel_size=(3, 1)), dict(stride=(2, 1)), dict(padding='same'), dict(dilation=(1, 2))],
)
def test_convolution_that_it_cannot_replace_is_refused(changed):
    conv = nn.Conv2d(**{'in_channels': 8, 'out_channels': 16, 'kernel_size': 3, **changed})
    with pytest.raises(ValueError, match=r'^Conv2d.* is grouped or not the same along both axes'):
        AugConv2d.in_place_of(conv, (7, 6), num_heads=2)


def test_defaults_are_those_of_a_convolution_and_of_the_block():
    conv = AugConv2d(64, 64, 3, (5, 4))
    assert (conv.stride, conv.padding, conv.attn.num_heads) == ((1, 1), (0, 0), 8)
    assert conv.bias is not None
    assert (conv.attn.dim_head, conv.attn.dim_out) == (1, 8)
    assert AugConv2d(64, 64, 3, 5, num_heads=2, qk_ratio=0.5).attn.dim_head == 16
    assert (len(conv.attn.height_rel), len(conv.attn.width_rel)) == (9, 7)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ({'num_heads': 3}, r'qk_ratio=0.125 of 16 channels is 2, which num_heads=3 does not divide'),
        ({'num_heads': 2, 'v_ratio': 1.0}, r'v_ratio=1.0 leaves no filter to the convolution'),
    ],
)
def test_invalid_ratios_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        AugConv2d(8, 16, 3, 6, **args)
