"""Attention maps are the weights that the model really uses."""

import pytest
import timm
import torch

import timm_convattn  # noqa: F401
from timm_convattn import RelMha2d
from timm_convattn.explain import attention_maps


def test_maps_of_all_layers_come_in_order_and_sum_to_one():
    model = timm.create_model('aresnet18_relmha', img_size=60, in_chans=1).train()
    images = torch.rand(3, 1, 60, 60)
    maps = attention_maps(model, images)
    assert [(found.layer, tuple(found.weights.shape)) for found in maps] == [
        ('layer4.0.attn', (3, 8, 4, 4, 4, 4)),
        ('layer4.2.attn', (3, 8, 2, 2, 2, 2)),
    ]
    for found in maps:
        torch.testing.assert_close(found.weights.sum((4, 5)), torch.ones(found.weights.shape[:4]))
        torch.testing.assert_close(found.received().sum((1, 2)), torch.ones(3))
        torch.testing.assert_close(found.over_image((60, 60)).mean((1, 2)), torch.ones(3), rtol=0.2, atol=0.2)
    assert model.training
    assert all(module.fused_attn for module in model.modules() if isinstance(module, RelMha2d))


def test_weights_times_values_are_the_output_of_the_attention():
    attention = RelMha2d(16, 8, feat_size=(3, 5), num_heads=2, dim_head=4, attn_proj=False).eval()
    x = torch.randn(2, 16, 3, 5)
    (found,) = attention_maps(torch.nn.Sequential(attention), x)
    values = attention.qkv(x)[:, 16:].reshape(2, 2, 4, 15)
    weights = found.weights.reshape(2, 2, 15, 15)
    expected = (values @ weights.transpose(-2, -1)).reshape(2, 8, 3, 5)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_a_position_that_all_look_at_is_bright():
    attention = RelMha2d(4, 4, feat_size=4, num_heads=1, dim_head=4, rel_pos=False, attn_proj=False)
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.weight[0, 0] = attention.qkv.weight[4, 1] = 1.0  # q reads channel 0, k channel 1
    x = torch.zeros(1, 4, 4, 4)
    x[:, 0], x[0, 1, 1, 2] = 10.0, 10.0
    (found,) = attention_maps(torch.nn.Sequential(attention), x)
    assert found.received()[0].argmax() == 1 * 4 + 2
    assert found.received()[0, 1, 2] > 0.99


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match='ResNet has no relative'):
        attention_maps(timm.create_model('resnet18'), torch.rand(1, 3, 64, 64))
