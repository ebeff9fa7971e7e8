"""RelMha2d against a loop over every pair of positions, written straight from the paper's equations."""

import math

import pytest
import torch
from timm.layers import set_fused_attn
from timm.utils import AttentionExtract
from torch import nn

from timm_convattn.layers import RelMha2d
from timm_convattn.layers.rel_mha import attend, check_heads, position_logits, position_tables, resample_table


def loop_attention(layer: RelMha2d, x: torch.Tensor) -> torch.Tensor:
    """Equations 1 to 4, one query position, one key position and one head at a time."""
    H, W = x.shape[-2:]
    d, heads = layer.dim_head, layer.num_heads
    weight = layer.qkv.weight[:, :, 0, 0]
    bias = layer.qkv.bias if layer.qkv.bias is not None else x.new_zeros(len(weight))
    output = []
    for image in x:
        # X' (HW x D_in) and its queries, keys, values
        tokens = {(y, col): image[:, y, col] for y in range(H) for col in range(W)}
        qkv = {position: weight @ token + bias for position, token in tokens.items()}
        columns = []
        for yi, xi in tokens:
            out_heads = []
            for h in range(heads):
                q = qkv[yi, xi][h * d : (h + 1) * d]
                logits, values = [], []
                for yj, xj in tokens:
                    k = qkv[yj, xj][layer.dim_qk + h * d : layer.dim_qk + (h + 1) * d]
                    if layer.rel_pos:
                        r_w = layer.width_rel[(xj - xi) + W - 1]
                        r_h = layer.height_rel[(yj - yi) + H - 1]
                        k = k + r_w + r_h
                    logits.append(q @ k / math.sqrt(d))
                    v_of_heads = qkv[yj, xj][2 * layer.dim_qk :].view(heads, -1)
                    values.append(v_of_heads[h])
                out_heads.append(torch.stack(logits).softmax(0) @ torch.stack(values))
            columns.append(torch.cat(out_heads))
        output.append(torch.stack(columns, dim=1).view(-1, H, W))
    out = torch.stack(output)
    return layer.proj(out)


@pytest.fixture(params=[1, 0], ids=['fused', 'unfused'])
def fused(request):
    set_fused_attn(bool(request.param))
    yield bool(request.param)
    set_fused_attn(True)


@pytest.mark.parametrize('size', [(3, 3), (2, 5), (4, 1), (1, 1)], ids=str)
@pytest.mark.parametrize(
    'args',
    [
        {},
        {'rel_pos': False},
        {'qkv_bias': True, 'qk_ratio': 0.5},
        {'attn_proj': False, 'dim_head': 3},
        {'num_heads': 1},
    ],
    ids=str,
)
def test_output_and_gradients_equal_the_loop_over_the_equations(fused, size, args):
    torch.manual_seed(0)
    layer = RelMha2d(6, 8, feat_size=size, dtype=torch.float64, **{'num_heads': 4, **args})
    if layer.qkv.bias is not None:
        nn.init.normal_(layer.qkv.bias)
    assert layer.fused_attn is fused
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 8, *size, dtype=torch.float64)
    inputs = [x, *layer.parameters()]

    ours, expected = layer(x), loop_attention(layer, x)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    our_grads = torch.autograd.grad(ours, inputs, cotangent)
    expected_grads = torch.autograd.grad(expected, inputs, cotangent)
    for ours, expected in zip(our_grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_another_map_size_is_attended_with_resampled_tables():
    torch.manual_seed(0)
    layer = RelMha2d(6, 8, feat_size=(3, 4), num_heads=2, dtype=torch.float64)
    native = RelMha2d(6, 8, feat_size=(5, 2), num_heads=2, dtype=torch.float64)
    state = layer.state_dict()
    state['height_rel'] = resample_table(state['height_rel'], 9)
    state['width_rel'] = resample_table(state['width_rel'], 3)
    native.load_state_dict(state)
    x = torch.randn(2, 6, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), loop_attention(native, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize('size', [1, 2, 7, 14])
def test_a_table_at_its_native_size_is_not_changed_by_a_bit(size):
    table = torch.randn(2 * size - 1, 5)
    assert torch.equal(resample_table(table, 2 * size - 1), table)


@pytest.mark.parametrize(('size', 'other'), [(7, 4), (4, 7), (4, 1), (1, 4), (2, 14)])
def test_a_resampled_table_keeps_offset_zero_in_the_middle(size, other):
    offsets = torch.arange(-(size - 1), size, dtype=torch.float64)[:, None]
    resampled = resample_table(offsets, 2 * other - 1)
    assert resampled[other - 1].abs() < 1e-12
    torch.testing.assert_close(resampled, -resampled.flip(0))


def test_position_term_is_the_query_times_the_row_of_key_minus_query():
    size = 4
    table = torch.arange(-(size - 1), size, dtype=torch.float64)[:, None]  # r[offset] = offset
    q = torch.full((1, 1, 3, 1), 2.0, dtype=torch.float64)
    indices = torch.tensor([[0], [3], [1]])
    found = position_logits(q, table, indices, size)
    assert found.tolist() == [[[[0, 2, 4, 6], [-6, -4, -2, 0], [-2, 0, 2, 4]]]]


def test_without_positions_attention_is_permutation_equivariant():
    layer = RelMha2d(6, 8, feat_size=3, num_heads=2, rel_pos=False, dtype=torch.float64)
    x = torch.randn(1, 6, 9, 1, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(x[:, :, order]), layer(x)[:, :, order])
    assert layer.height_rel is None and layer.width_rel is None
    with_positions = RelMha2d(6, 8, feat_size=(9, 1), num_heads=2, dtype=torch.float64)
    assert not torch.allclose(with_positions(x[:, :, order]), with_positions(x)[:, :, order])


def test_heads_share_one_pair_of_tables():
    layer = RelMha2d(16, 32, feat_size=(3, 5), num_heads=8, qk_ratio=0.5)
    assert layer.height_rel.shape == (5, 2)
    assert layer.width_rel.shape == (9, 2)


def test_attention_extract_finds_the_weights_and_they_sum_to_one():
    set_fused_attn(False)
    try:
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ModuleDict({'attn': RelMha2d(8, 8, 4)})['attn'])
        model.add_module('attn', RelMha2d(8, 8, 4, num_heads=2))
    finally:
        set_fused_attn(True)
    maps = AttentionExtract(model.eval(), method='hook')(torch.randn(2, 3, 4, 4))
    assert maps['attn.attn_drop'].shape == (2, 2, 16, 16)
    torch.testing.assert_close(maps['attn.attn_drop'].sum(-1), torch.ones(2, 2, 16))


@pytest.mark.parametrize('dropout', ['attn_drop', 'proj_drop'])
def test_dropout_acts_in_train_mode_only(fused, dropout):
    layer = RelMha2d(8, 8, 4, num_heads=2, **{dropout: 0.5})
    x = torch.randn(2, 8, 4, 4)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_defaults_keep_the_width_and_have_no_qkv_bias():
    layer = RelMha2d(32)
    assert (layer.dim_out, layer.num_heads, layer.dim_head, layer.dim_qk) == (32, 8, 4, 32)
    assert layer.qkv.bias is None
    assert layer.proj.bias is not None
    assert len(layer.height_rel) == len(layer.width_rel) == 13


def test_parameters_start_with_a_deviation_of_1_over_sqrt_fan_in():
    torch.manual_seed(0)
    layer = RelMha2d(256, 128, feat_size=40, num_heads=2)
    torch.testing.assert_close(layer.qkv.weight.std().item(), 256**-0.5, rtol=0.03, atol=0)
    torch.testing.assert_close(layer.proj.weight.std().item(), 128**-0.5, rtol=0.03, atol=0)
    for table in (layer.height_rel, layer.width_rel):
        torch.testing.assert_close(table.std().item(), 64**-0.5, rtol=0.05, atol=0)
    assert not layer.proj.bias.any()


def test_position_tables_are_found_by_name():
    model = nn.ModuleDict({'with': RelMha2d(8, 8, 4, num_heads=2), 'without': RelMha2d(8, 8, 4, 2, rel_pos=False)})
    assert position_tables(model) == {'with.height_rel', 'with.width_rel'}


def test_it_can_be_created_on_the_meta_device_in_half_precision():
    layer = RelMha2d(8, 8, 4, num_heads=2, device='meta', dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {('meta', torch.bfloat16)}
    assert layer(torch.empty(2, 8, 4, 4, device='meta', dtype=torch.bfloat16)).shape == (2, 8, 4, 4)


@pytest.mark.parametrize(
    ('width', 'heads', 'fits'),
    [
        (0, 8, 'With 0 channels, num_heads can be none; with 8 heads, use 8 channels.'),
        (0, 1, 'With 0 channels, num_heads can be none; with 1 heads, use 1 channels.'),
        (7, 2, 'With 7 channels, num_heads can be 1, 7; with 2 heads, use 6 or 8 channels.'),
        (130, 4, 'With 130 channels, num_heads can be 1, 2, 5, 10, 13, 26; with 4 heads, use 128 or 132 channels.'),
    ],
)
def test_error_for_a_width_names_the_nearest_valid_ones(width, heads, fits):
    with pytest.raises(ValueError, match='does not divide') as refused:
        check_heads('The width', width, heads)
    assert str(refused.value) == f'The width is {width}, which num_heads={heads} does not divide. {fits}'


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            {'dim_out': 12, 'num_heads': 8},
            r'^The output of the attention \(dim_out\) is 12, .* 1, 2, 3, 4, 6, 12; with 8 heads, use 8 or 16 channels',
        ),
        (
            {'dim_out': 16, 'num_heads': 8, 'qk_ratio': 0.3},
            r'^The width of queries and keys \(dim_out \* qk_ratio\) is 5, which num_heads=8',
        ),
        ({'num_heads': 0}, r'num_heads=0 was given, it must be at least 1'),
        ({'feat_size': 0}, r'feat_size is 0 x 0, both sides must be at least 1'),
        ({'feat_size': (3, 0)}, r'feat_size is 3 x 0, both sides must be at least 1'),
    ],
)
def test_invalid_widths_are_refused_with_valid_ones(args, message):
    with pytest.raises(ValueError, match=message):
        RelMha2d(8, **args)


def large_and_expected(size, factor, dtype):
    """Queries, keys, values and tables, the larger with terms beyond float16, and the output of the formula."""
    torch.manual_seed(0)
    (height, width), dim = size, 16
    q, k, v = (torch.randn(2, 4, channels, height * width) * factor for channels in (dim, dim, 8))
    tables = [torch.randn(2 * side - 1, dim) * max(1.0, factor / 1e3) for side in size]
    given = [x.to(dtype) for x in (q, k, v, *tables)]
    q, k, v, height_rel, width_rel = (x.double() for x in given)
    ys, xs = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    by_height = torch.einsum('bhdi,ijd->bhij', q, height_rel[ys - ys.unsqueeze(1) + height - 1])
    by_width = torch.einsum('bhdi,ijd->bhij', q, width_rel[xs - xs.unsqueeze(1) + width - 1])
    assert (by_height.abs().max() * dim**-0.5 > 65504) == (factor == 1e4)
    logits = (torch.einsum('bhdi,bhdj->bhij', q, k) + by_height + by_width) * dim**-0.5
    return given, torch.einsum('bhij,bhej->bhei', logits.softmax(-1), v)


@pytest.mark.parametrize('factor', [0.01, 1.0, 100.0, 1e4])
@pytest.mark.parametrize(
    ('dtype', 'bound'), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3), (torch.float32, 1e-5)], ids=str
)
def test_fused_kernel_equals_the_formula_for_small_and_large_logits(monkeypatch, dtype, bound, factor):
    given, expected = large_and_expected((5, 7), factor, dtype)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)  # as on another device
    found = attend(*given, 5, 7, 16**-0.5)
    assert found.dtype == dtype
    assert (found.double() - expected).norm() / expected.norm() < bound


@pytest.mark.parametrize(('lowest', 'highest'), [(-60, 60), (-900, 900), (-900, -600)])  # 900: beyond 16 million
def test_float16_position_terms_and_gradients_are_finite(lowest, highest):
    q = torch.full((1, 1, 3, 4), 6e4, dtype=torch.float16, requires_grad=True)
    table = torch.linspace(lowest, highest, 20, dtype=torch.float16).view(5, 4).requires_grad_()
    found = position_logits(q, table, torch.arange(3).unsqueeze(1), 3)
    assert found.isfinite().all()
    assert found.amax(-1).eq(0).all()
    found.softmax(-1).sum().backward()
    assert q.grad.isfinite().all() and table.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_layer_stays_finite_with_very_large_logits(fused, dtype):
    torch.manual_seed(0)
    layer = RelMha2d(16, 16, feat_size=4, num_heads=2, attn_drop=0.1, dtype=dtype)
    x = torch.randn(2, 16, 4, 4, dtype=dtype) * 1e4
    x.requires_grad_()
    for training in (True, False):  # with dropout neither path is the blockwise one
        out = layer.train(training)(x)
        out.sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all()


def test_fused_float16_layer_stays_finite_with_large_logits():
    torch.manual_seed(0)
    layer = RelMha2d(16, 16, feat_size=4, num_heads=2, attn_drop=0.1).half().train()
    assert layer.fused_attn
    nn.init.normal_(layer.height_rel, std=20)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float16) * 1e4
    assert layer(x).isfinite().all()
