"""The block against its equations, its initial function, and the sizes of its two paths."""

import pytest
import torch
from timm.layers import LayerNorm2d, LayerNormAct2d
from timm.models.resnet import Bottleneck
from torch import nn

from timm_convattn.layers import ConvAttn, ConvAttnStage
from timm_convattn.layers.conv_attn import Transition, split_attn_args


def strided_conv(dim: int, dim_out: int) -> nn.Module:
    return nn.Conv2d(dim, dim_out, 3, stride=2, padding=1)


def max_pool_path(dim: int, dim_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(dim, dim_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2))


def loop_average_pool(x: torch.Tensor, ceil: bool, size: tuple[int, int]) -> torch.Tensor:
    """Mean over three rows and columns: around 2i those inside the map, or from 2i on with the last one repeated."""
    H, W = x.shape[-2:]

    def window(i: int, length: int) -> list[int]:
        if ceil:
            return [index for index in range(2 * i - 1, 2 * i + 2) if 0 <= index < length]
        return [min(index, length - 1) for index in range(2 * i, 2 * i + 3)]

    out = x.new_empty(*x.shape[:2], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            out[:, :, i, j] = x[:, :, window(i, H)][:, :, :, window(j, W)].mean((2, 3))
    return out


@pytest.mark.parametrize('size', [(4, 4), (5, 7), (2, 3)], ids=str)
@pytest.mark.parametrize('ceil', [True, False], ids=['strided', 'max-pooled'])
def test_block_is_batch_norm_of_both_paths_concatenated(size, ceil):
    conv = strided_conv(6, 16) if ceil else max_pool_path(6, 16)
    block = ConvAttn(conv, 6, 16, size, stride=2, ceil=ceil, num_heads=2, v_ratio=0.25).double()
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    x = torch.randn(3, 6, *size, dtype=torch.float64)

    x1 = conv(x)
    x2 = loop_average_pool(block.attn(x), ceil, x1.shape[-2:])
    y = torch.cat([x1, x2], dim=1)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
    weight, bias = block.norm.weight[:, None, None], block.norm.bias[:, None, None]
    expected = (y - mean) / (var + block.norm.eps).sqrt() * weight + bias
    torch.testing.assert_close(block.train()(x), expected, rtol=0, atol=1e-10)


def test_residual_block_as_path_adds_its_input():
    residual = Bottleneck(16, 4).double().eval()
    block = ConvAttn(residual, 16, 16, 4, num_heads=2).double().eval()
    x = torch.rand(2, 16, 4, 4, dtype=torch.float64)
    nn.init.zeros_(residual.bn3.weight)  # X' = 0, so that X + X' is X
    torch.testing.assert_close(block(x)[:, :16], x)


@pytest.mark.parametrize('height', range(2, 12))
@pytest.mark.parametrize('width', [2, 5])
@pytest.mark.parametrize('ceil', [True, False], ids=['strided', 'max-pooled'])
def test_both_paths_meet_at_the_same_size(height, width, ceil):
    conv = strided_conv(4, 8) if ceil else max_pool_path(4, 8)
    block = ConvAttn(conv, 4, 8, (4, 4), stride=2, ceil=ceil, num_heads=1)
    x = torch.randn(1, 4, height, width)
    assert block.eval()(x).shape == (1, 9, *conv(x).shape[-2:])


@pytest.mark.parametrize(('size', 'short'), [((1, 4), 'low'), ((4, 1), 'narrow')])
def test_map_too_small_for_the_max_pool_is_refused(size, short):
    block = ConvAttn(max_pool_path(4, 8), 4, 8, 4, stride=2, ceil=False, num_heads=1)
    with pytest.raises(
        AssertionError, match=rf'^The map is too {short} for this stage to halve it: enlarge the image\.$'
    ):
        block(torch.randn(2, 4, *size))
    strided = ConvAttn(strided_conv(4, 8), 4, 8, 4, stride=2, num_heads=1)
    assert min(strided(torch.randn(2, 4, *size)).shape[2:]) == 1


BATCH_OF_ONE = (
    r'^A single image whose map is a single position has no batch statistics: train with a larger batch or image, '
    r'or call eval\(\)\.$'
)


@pytest.mark.parametrize(('ceil', 'single', 'several'), [(True, (2, 2), (2, 3)), (False, (3, 2), (4, 2))])
def test_training_on_one_position_of_one_image_is_refused_with_advice(ceil, single, several):
    conv = strided_conv(4, 16) if ceil else max_pool_path(4, 16)
    block = ConvAttn(nn.Sequential(conv, nn.BatchNorm2d(16)), 4, 16, (4, 4), stride=2, ceil=ceil, num_heads=1)
    with pytest.raises(AssertionError, match=BATCH_OF_ONE):
        block(torch.randn(1, 4, *single))
    for batch, size in [(2, single), (1, several), (1, several[::-1])]:
        assert block(torch.randn(batch, 4, *size)).isfinite().all()
    assert block.eval()(torch.randn(1, 4, *single)).isfinite().all()
    plain = ConvAttn(conv, 4, 16, (4, 4), stride=2, ceil=ceil, num_heads=1, norm_layer=LayerNorm2d)
    assert plain(torch.randn(1, 4, *single)).isfinite().all()


def test_scripted_block_raises_the_same_error():
    block = ConvAttn(strided_conv(4, 8), 4, 8, (4, 4), stride=2, num_heads=1)
    with pytest.raises(torch.jit.Error, match='train with a larger batch or image, or call eval'):
        torch.jit.script(block)(torch.randn(1, 4, 2, 2))


def test_defaults_are_the_papers():
    block = ConvAttn(nn.Conv2d(64, 64, 3, padding=1), 64, 64, 4)
    attn = block.attn
    assert (attn.num_heads, attn.dim_head, attn.dim_out, block.dim_attn, block.num_features) == (8, 1, 8, 8, 72)
    assert attn.rel_pos
    assert attn.qkv.bias is None
    assert isinstance(attn.proj, nn.Conv2d)
    assert attn.attn_drop.p == attn.proj_drop.p == 0
    assert isinstance(block.norm, nn.BatchNorm2d)
    assert Transition(4, 4).conv.kernel_size == (3, 3)


def test_attention_arguments_reach_the_attention():
    args = dict(num_heads=2, qk_ratio=0.25, v_ratio=0.5, qkv_bias=True, rel_pos=False, attn_proj=False)
    block = ConvAttn(nn.Conv2d(64, 64, 3, padding=1), 64, 64, 4, **args, attn_drop=0.1, proj_drop=0.2)
    attn = block.attn
    assert (attn.num_heads, attn.dim_head, attn.dim_out) == (2, 8, 32)
    assert not attn.rel_pos
    assert attn.qkv.bias is not None
    assert isinstance(attn.proj, nn.Identity)
    assert (attn.attn_drop.p, attn.proj_drop.p) == (0.1, 0.2)


def test_attention_arguments_are_split_from_the_others():
    assert split_attn_args({'num_heads': 4, 'drop_rate': 0.1}) == ({'num_heads': 4}, {'drop_rate': 0.1})


def test_transition_follows_its_arguments():
    pointwise = Transition(6, 4, 1, norm_layer=LayerNorm2d, act_layer=None, device='meta')
    assert pointwise.conv.kernel_size == (1, 1)
    assert pointwise.conv.weight.device.type == 'meta'
    assert isinstance(pointwise.bn, LayerNormAct2d)
    linear = Transition(6, 4, act_layer=None).eval()
    assert (linear(torch.randn(2, 6, 5, 5)) < 0).any()
    assert (Transition(6, 4).eval()(torch.randn(2, 6, 5, 5)) >= 0).all()


def resnet_blocks() -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(Bottleneck(8, 4, stride=2, downsample=shortcut), Bottleneck(16, 4), Bottleneck(16, 4))


def test_stage_alternates_blocks_and_transitions():
    stage = ConvAttnStage(resnet_blocks(), 8, 16, feat_size=(7, 6), stride=2, num_heads=2)
    assert [type(module) for module in stage] == [ConvAttn, Transition, ConvAttn, Transition, ConvAttn]
    assert [block.attn.height_rel.shape[0] for block in list(stage)[::2]] == [13, 7, 7]
    assert [block.attn.width_rel.shape[0] for block in list(stage)[::2]] == [11, 5, 5]
    assert stage(torch.randn(2, 8, 7, 6)).shape == (2, stage.num_features, 4, 3)
    assert stage.num_features == 18


def test_stage_of_max_pooled_blocks_rounds_down_and_uses_its_layers():
    blocks = [max_pool_path(4, 8), nn.Conv2d(8, 8, 3, padding=1)]
    layers = dict(norm_layer=LayerNorm2d, act_layer=nn.SiLU)
    stage = ConvAttnStage(blocks, 4, 8, feat_size=(7, 6), stride=2, ceil=False, num_heads=1, **layers)
    assert [(len(block.attn.height_rel), len(block.attn.width_rel)) for block in list(stage)[::2]] == [(13, 11), (5, 5)]
    assert stage(torch.randn(1, 4, 7, 6)).shape == (1, 9, 3, 3)
    assert all(isinstance(block.norm, LayerNorm2d) for block in list(stage)[::2])
    assert any(isinstance(module, nn.SiLU) for module in stage[1].modules())
    assert ConvAttnStage([nn.Conv2d(8, 8, 3, padding=1)], 8, 8, feat_size=6, num_heads=1).stride == 1


@pytest.mark.parametrize('ceil', [True, False], ids=['strided', 'max-pooled'])
def test_set_feat_size_equals_resampling_at_run_time(ceil):
    path = strided_conv if ceil else max_pool_path
    blocks = [path(4, 8), nn.Conv2d(8, 8, 3, padding=1)]
    stage = ConvAttnStage(blocks, 4, 8, feat_size=(7, 6), stride=2, ceil=ceil, num_heads=1).double().eval()
    x = torch.randn(2, 4, 11, 9, dtype=torch.float64)
    expected = stage(x)
    kept = stage[0].attn.height_rel
    stage.set_feat_size((7, 6))
    assert stage[0].attn.height_rel is kept
    kept.requires_grad_(False)
    stage.set_feat_size((11, 9))
    torch.testing.assert_close(stage(x), expected)
    tables = [(len(block.attn.height_rel), len(block.attn.width_rel)) for block in list(stage)[::2]]
    assert tables == [(21, 17), (11, 9) if ceil else (9, 7)]
    assert not stage[0].attn.height_rel.requires_grad
    assert stage[0].attn.width_rel.requires_grad
    assert stage[0].attn.height_rel.is_contiguous()


def test_set_feat_size_without_positions_does_nothing():
    stage = ConvAttnStage([nn.Conv2d(8, 8, 3, padding=1)], 8, 8, feat_size=6, num_heads=1, rel_pos=False)
    stage.set_feat_size(9)
    assert stage(torch.randn(2, 8, 9, 9)).shape == (2, 9, 9, 9)


def test_fresh_stage_computes_what_its_blocks_compute():
    torch.manual_seed(0)
    blocks = resnet_blocks()
    for module in blocks.modules():  # statistics that a batch norm of pretrained weights could have
        module.double()
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    stage = ConvAttnStage(blocks, 8, 16, feat_size=6, stride=2, num_heads=2, dtype=torch.float64).eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    out = stage(x)
    torch.testing.assert_close(out[:, :16], blocks(x), rtol=1e-12, atol=1e-12)
    assert out[:, 16:].abs().mean() > 0.01, 'the classifier needs attention channels to learn from'


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ({'qk_ratio': 0.3}, r'qk_ratio=0.3 of 16 channels is 5, which num_heads=2 does not divide'),
        ({'v_ratio': 0.0}, r'v_ratio=0.0 of 16 channels is 0'),
        ({'stride': 4}, r'stride=4 was given, the attention path can be pooled by 1 or 2'),
        ({'transition_kernel': 2}, r'transition_kernel=2 was given, it must be odd'),
    ],
)
def test_invalid_arguments_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        ConvAttnStage(resnet_blocks(), 8, 16, feat_size=6, **{'num_heads': 2, 'stride': 2, **args})


def test_stage_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r'^The stage got no blocks, it needs at least one'):
        ConvAttnStage([], 8, 16, feat_size=6)
