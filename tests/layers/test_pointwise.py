"""The projection of every position is torch's 1x1 convolution, whichever kernel computes it."""

import copy

import pytest
import torch
import torch.nn as nn
from torch.profiler import ProfilerActivity, profile

from timm_convattn.layers.pointwise import PointwiseConv2d


def operators(function):
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return {event.key for event in recorded.key_averages()}


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('batch', [0, 1, 5, 20])
def test_outputs_and_gradients_are_those_of_the_convolution(batch, bias):
    torch.manual_seed(0)
    ours, x = PointwiseConv2d(6, 10, bias=bias), torch.randn(batch, 6, 3, 4, requires_grad=True)
    theirs = nn.Conv2d(6, 10, 1, bias=bias)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for mine, other in zip(
        torch.autograd.grad(found, [x, *ours.parameters()], weights),
        torch.autograd.grad(expected, [x, *theirs.parameters()], weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN')
def test_one_image_on_one_thread_goes_to_onednn():
    layer, x = PointwiseConv2d(6, 10), torch.randn(1, 6, 3, 4)
    assert 'aten::mkldnn_convolution' in operators(lambda: layer(x))
    with torch.backends.mkldnn.flags(enabled=False):
        assert 'aten::mkldnn_convolution' not in operators(lambda: layer(x))


def test_autocast_and_other_types_are_the_convolutions():
    layer, x = PointwiseConv2d(6, 10), torch.randn(2, 6, 3, 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    for dtype in (torch.float64, torch.bfloat16):
        assert copy.deepcopy(layer).to(dtype)(x.to(dtype)).dtype == dtype


def test_captured_graphs_hold_a_convolution():
    layer, x = PointwiseConv2d(6, 10), torch.randn(2, 6, 3, 4)
    assert 'mkldnn' not in str(torch.export.export(layer, (x,)).graph)
    assert 'mkldnn' not in str(torch.jit.trace(layer, x).graph)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


def test_script_computes_the_same():
    layer, x = PointwiseConv2d(6, 10), torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))
