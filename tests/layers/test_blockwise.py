"""Attention by blocks: the formula to float rounding in every block size and type, and memory linear in the map."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measure import peak_memory
from timm_convattn import RelMha2d
from timm_convattn.layers import blockwise
from timm_convattn.layers.blockwise import blockwise_attention
from timm_convattn.layers.rel_mha import attend, fold_positions


def tensors(height, width, dim=3, dim_v=5, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(2, 4, dim, height * width)] * 2 + [
        (2, 4, dim_v, height * width),
        (2 * height - 1, dim),
        (2 * width - 1, dim),
    ]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def formula(q, k, v, height_rel, width_rel):
    """Eq. 3 with the logits written out."""
    height, width = (len(height_rel) + 1) // 2, (len(width_rel) + 1) // 2
    ys, xs = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    logits = torch.einsum('bhdi,bhdj->bhij', q, k)
    logits = logits + torch.einsum('bhdi,ijd->bhij', q, height_rel[ys - ys.unsqueeze(1) + height - 1])
    logits = logits + torch.einsum('bhdi,ijd->bhij', q, width_rel[xs - xs.unsqueeze(1) + width - 1])
    return torch.einsum('bhij,bhej->bhei', logits.softmax(-1), v)


@pytest.mark.parametrize('block', [1, 60, 700, 4000, 10**9])  # less than a query, one, some, some heads, everything
@pytest.mark.parametrize('size', [(5, 7), (1, 1), (1, 6), (6, 6)])
@pytest.mark.parametrize('scale', [0.5, 300.0])  # 300: powers of two of these logits would be infinite
def test_outputs_and_gradients_are_the_formulas(size, block, scale, monkeypatch):
    monkeypatch.setattr(blockwise, 'BLOCK_LOGITS', block)
    given = tensors(*size)
    ours, expected = blockwise_attention(*given, scale=scale), formula(given[0] * scale, *given[1:])
    torch.testing.assert_close(ours, expected)
    weights = torch.randn_like(expected)
    for found, wanted in zip(
        torch.autograd.grad(ours, given, weights), torch.autograd.grad(expected, given, weights), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(blockwise, 'BLOCK_LOGITS', 30)
    assert torch.autograd.gradcheck(blockwise_attention, tensors(2, 3), fast_mode=True)


@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_smaller_types_stay_near_float64(dtype, bound):
    given = tensors(9, 8, dim=8, dim_v=8)
    expected = formula(*given)
    found = blockwise_attention(*(x.detach().to(dtype) for x in given))
    assert found.dtype == dtype
    assert ((found.double() - expected).norm() / expected.norm()) < bound


def test_autocast_computes_the_attention_in_float32():
    torch.manual_seed(0)
    layer = RelMha2d(32, 32, feat_size=9, num_heads=4)
    x = torch.randn(2, 32, 9, 9)
    expected = layer(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = layer(x)
    assert (found.float() - expected).norm() / expected.norm() < 0.02
    found.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_very_large_logits_stay_finite():
    given = [x.detach() * 1e4 for x in tensors(5, 7, dtype=torch.float32)]
    assert blockwise_attention(*given).isfinite().all()


@pytest.mark.parametrize('large', ['queries', 'keys', 'height_rel', 'width_rel', 'scale'])
def test_one_large_factor_keeps_powers_of_two_in_range(large, monkeypatch):
    monkeypatch.setattr(blockwise, 'BLOCK_LOGITS', 60)
    q, k, v, height_rel, width_rel = (x.detach() / 10 for x in tensors(5, 7))
    q[:, :, :, ::2] *= 10  # at some positions only, as in practice
    factors = {name: 1e5 if name == large else 1.0 for name in ('queries', 'keys', 'height_rel', 'width_rel', 'scale')}
    q[..., 0] *= factors['queries']
    k[..., 3] *= factors['keys']
    height_rel[2] *= factors['height_rel']
    width_rel[4] *= factors['width_rel']
    expected = formula(q * factors['scale'], k, v, height_rel, width_rel)
    given = [x.float() for x in (q, k, v, height_rel, width_rel)]
    found = blockwise_attention(*given, scale=factors['scale'])
    assert ((found.double() - expected).norm() / expected.norm()) < 1e-2


def test_powers_of_two_whose_sum_is_out_of_range_are_scaled(monkeypatch):
    monkeypatch.setattr(blockwise, 'BLOCK_LOGITS', 60)
    _, _, v, height_rel, width_rel = (x.detach().float() for x in tensors(5, 7))
    ones, scale = torch.ones(2, 4, 3, 35), 124 * math.log(2) / 3  # 35 powers 2**124 for every query
    found = blockwise_attention(ones, ones, v, 0 * height_rel, 0 * width_rel, scale=scale)
    torch.testing.assert_close(found, v.mean(-1, keepdim=True).expand_as(v))


@pytest.mark.parametrize('training', [True, False])
def test_layer_on_a_cpu_does_without_the_fused_kernel(training, monkeypatch):
    monkeypatch.delattr(F, 'scaled_dot_product_attention')
    layer = RelMha2d(8, 8, feat_size=3, num_heads=2).train(training)
    assert layer(torch.randn(2, 8, 4, 3)).isfinite().all()


def test_captured_graphs_compute_the_same_with_the_fused_kernel():
    given = tensors(5, 7, dtype=torch.float32)
    traced = torch.jit.trace(lambda *args: attend(*args, 5, 7, 0.5), given)
    assert 'scaled_dot_product_attention' in str(traced.graph)
    torch.testing.assert_close(traced(*given), attend(*given, 5, 7, 0.5), rtol=1e-4, atol=1e-5)


def test_folded_queries_and_keys_have_the_logits_as_dot_products():
    q, k, v, height_rel, width_rel = tensors(5, 7)
    long_q, long_k = fold_positions(q.transpose(-2, -1), k.transpose(-2, -1), height_rel, width_rel, 5, 7)
    found = F.softmax(long_q @ long_k.transpose(-2, -1), -1) @ v.transpose(-2, -1)
    torch.testing.assert_close(found.transpose(-2, -1), formula(q, k, v, height_rel, width_rel))


@pytest.mark.parametrize('backward', [False, True])
def test_peak_memory_grows_linearly_with_the_positions(backward):
    def peak(size):
        layer = RelMha2d(64, 64, feat_size=size, num_heads=8)
        x = torch.randn(1, 64, size, size, requires_grad=backward)
        return peak_memory(lambda: layer(x).sum().backward() if backward else layer(x).detach())

    small, large = peak(28), peak(56)
    assert small > 0
    assert large <= 4.5 * small


def test_index_tables_created_in_inference_mode_work_in_training():
    blockwise._offset_rows.cache_clear()
    layer, x = RelMha2d(8, 8, feat_size=3, num_heads=2), torch.randn(1, 8, 3, 3)
    with torch.inference_mode():
        layer(x)
    assert not blockwise._offset_rows(3, 3).is_inference()
    layer(x).sum().backward()
    assert layer.height_rel.grad.isfinite().all()
