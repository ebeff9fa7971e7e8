"""Attention maps are the weights that the model really uses."""

import pytest
import timm
import torch

import timm_convattn  # noqa: F401
from timm_convattn import RelMha2d
from timm_convattn.explain import attention_maps


@pytest.fixture(scope='module')
def aresnet18():
    return timm.create_model('aresnet18_relmha', img_size=60, in_chans=1)


def only_attention(**kwargs):
    return RelMha2d(4, 4, feat_size=4, num_heads=2, dim_head=2, attn_proj=False, **kwargs)


def test_maps_of_all_layers_are_in_order_and_sum_to_one(aresnet18):
    maps = attention_maps(aresnet18, torch.rand(3, 1, 60, 60))
    assert [(found.layer, tuple(found.weights.shape)) for found in maps] == [
        ('layer4.0.attn', (3, 8, 4, 4, 4, 4)),
        ('layer4.2.attn', (3, 8, 2, 2, 2, 2)),
    ]
    for found in maps:
        torch.testing.assert_close(found.weights.sum((4, 5)), torch.ones(found.weights.shape[:4]))
        torch.testing.assert_close(found.received().sum((1, 2)), torch.ones(3))
        torch.testing.assert_close(found.over_image((60, 60)).mean((1, 2)), torch.ones(3), rtol=0.2, atol=0.2)


def test_the_model_is_left_unchanged_even_if_it_fails(aresnet18):
    aresnet18.train()
    aresnet18.bn1.eval()
    attention_maps(aresnet18, torch.rand(2, 1, 60, 60))
    with pytest.raises(RuntimeError):
        attention_maps(aresnet18, torch.rand(2, 5, 60, 60))
    assert aresnet18.training
    assert aresnet18.layer4.training
    assert not aresnet18.bn1.training
    assert all(module.fused_attn for module in aresnet18.modules() if isinstance(module, RelMha2d))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in aresnet18.modules())


def test_weights_times_values_are_the_output_of_the_attention():
    attention = RelMha2d(16, 8, feat_size=(3, 5), num_heads=2, dim_head=4, attn_proj=False).eval()
    x = torch.randn(2, 16, 3, 5)
    (found,) = attention_maps(torch.nn.Sequential(attention), x)
    values = attention.qkv(x)[:, 16:].reshape(2, 2, 4, 15)
    weights = found.weights.reshape(2, 2, 15, 15)
    expected = (values @ weights.transpose(-2, -1)).reshape(2, 8, 3, 5)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_a_position_that_all_attend_to_is_bright():
    attention = RelMha2d(4, 4, feat_size=4, num_heads=1, dim_head=4, rel_pos=False, attn_proj=False)
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.weight[0, 0] = attention.qkv.weight[4, 1] = 1.0  # q reads channel 0, k channel 1
    x = torch.zeros(1, 4, 4, 4)
    x[:, 0], x[0, 1, 1, 2] = 10.0, 10.0
    (found,) = attention_maps(torch.nn.Sequential(attention), x)
    assert found.received()[0].argmax() == 1 * 4 + 2
    assert found.received()[0, 1, 2] > 0.99
    assert found.over_image((40, 60))[0, 15, 37] == pytest.approx(16, rel=0.1)  # x uniform attention: all of it


def test_the_mean_is_over_the_heads_and_the_query_positions():
    (found,) = attention_maps(torch.nn.Sequential(only_attention()), 3 * torch.randn(2, 4, 3, 4))
    assert (found.num_heads, found.feat_size) == (2, (3, 4))
    of_each = [found.received((row, column)) for row in range(3) for column in range(4)]
    torch.testing.assert_close(torch.stack(of_each).mean(0), found.received())
    torch.testing.assert_close(found.per_head((1, 2)).mean(1), found.received((1, 2)))
    torch.testing.assert_close(found.per_head((1, 2))[1, 0], found.weights[1, 0, 1, 2])
    heads = torch.stack([found.over_image((30, 40), head=head) for head in range(2)])
    torch.testing.assert_close(heads.mean(0), found.over_image((30, 40)))


@pytest.mark.parametrize(
    'position, query', [((0, 0), (0, 0)), ((29, 39), (2, 3)), ((9, 10), (0, 1)), ((10, 9), (1, 0))]
)
def test_a_pixel_has_the_attention_of_its_position_in_the_map(position, query):
    (found,) = attention_maps(torch.nn.Sequential(only_attention()), 3 * torch.randn(1, 4, 3, 4))
    assert found.query_at(position, (30, 40)) == query
    attention = found.over_image((3, 4), (position[0] // 10, position[1] // 10))
    torch.testing.assert_close(attention, 12 * found.received(query))


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match='ResNet has no relative'):
        attention_maps(timm.create_model('test_resnet'), torch.rand(1, 3, 64, 64))
