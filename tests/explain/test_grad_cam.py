"""Grad-CAM: of the right map, with the values of its definition; the model is left unchanged."""

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn

import timm_convattn  # noqa: F401
from timm_convattn.errors import InputError
from timm_convattn.explain.grad_cam import choose_map, compute_grad_cam
from timm_convattn.explain.model import run_forward
from timm_convattn.layers import ConvAttn


class CustomNetwork(nn.Module):
    """A convolution-attention block in a network that is not one of timm."""

    def __init__(self):
        super().__init__()
        self.block = ConvAttn(nn.Conv2d(1, 6, 3, padding=1), 1, 6, feat_size=5, num_heads=1, qk_ratio=0.5, v_ratio=0.5)
        self.fc = nn.Linear(9, 3)

    def forward(self, x):
        return self.fc(self.block(x).mean((2, 3)))


@pytest.mark.parametrize(
    'name, img_size, layer',
    [
        ('aresnet18_relmha', 60, 'layer3'),
        ('aresnet18_relmha', 128, 'layer4'),
        ('aresnet18_relmha', 32, 'layer2'),
        ('aaresnet18', 60, 'layer3'),
        ('avgg11_relmha', 60, 'features.14'),
        ('resnet18', 224, 'layer4'),
        ('test_vit', 160, None),
    ],
)
def test_the_last_map_with_four_positions_a_side_is_chosen(name, img_size, layer):
    kwargs = {} if name.startswith(('test', 'resnet')) else {'img_size': img_size}
    model, images = timm.create_model(name, num_classes=3, **kwargs), torch.rand(1, 3, img_size, img_size)
    if layer is None:
        with pytest.raises(InputError, match=r'has no feature maps .* such as resnet50'):
            run_forward(model, images)
        return
    chosen = choose_map(run_forward(model, images).maps)
    assert chosen.name == layer
    assert min(chosen.feat_size) >= 4
    assert not chosen.channels_last


def test_the_finest_map_is_chosen_if_none_has_four_positions_a_side():
    maps = run_forward(timm.create_model('test_resnet'), torch.rand(1, 3, 8, 8)).maps
    assert max(each.feat_size[0] for each in maps) < 4 or choose_map(maps).feat_size >= (4, 4)
    assert choose_map(maps[2:]).feat_size == max(each.feat_size for each in maps[2:])


def test_values_are_those_of_the_definition():
    network, images = CustomNetwork().eval(), torch.randn(1, 1, 5, 5)
    (feature_map,) = run_forward(network, images).maps
    for index in range(3):
        with torch.no_grad():  # a mean and a linear layer: the gradient of a logit is the weight, the same everywhere
            expected = (network.block(images)[0] * network.fc.weight[index].view(-1, 1, 1)).sum(0).relu()
        expected = expected - expected.min()
        found = compute_grad_cam(network, images, index, feature_map)
        np.testing.assert_allclose(found, (expected / expected.max()).numpy(), atol=1e-5)


def test_the_model_is_left_unchanged():
    network, images = CustomNetwork().train(), torch.randn(4, 1, 5, 5)
    network(images).sum().backward()
    network.block.norm.eval()
    network.fc.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = {name: value.grad.clone() for name, value in network.named_parameters()}
    (feature_map,) = run_forward(network, images[:1]).maps
    compute_grad_cam(network, images[:1], 0, feature_map)
    assert network.training
    assert not network.block.norm.training
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ['fc.bias']
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(value.grad, gradients[name]) for name, value in network.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert images.grad is None


def test_frozen_models_are_explained_without_gradients():
    network = CustomNetwork().requires_grad_(False)
    images = torch.randn(1, 1, 5, 5)
    (feature_map,) = run_forward(network, images).maps
    expected = compute_grad_cam(network, images, 1, feature_map)
    assert expected.max() == pytest.approx(1)
    with torch.inference_mode():
        found = compute_grad_cam(network, images.clone(), 1, feature_map)
    np.testing.assert_array_equal(found, expected)


def test_maps_with_channels_last_are_supported():
    model = timm.create_model(
        'swin_tiny_patch4_window7_224', img_size=64, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 1)
    )
    images = torch.rand(1, 3, 64, 64)
    maps = run_forward(model, images).maps
    assert [(each.feat_size, each.channels_last) for each in maps] == [((16, 16), True), ((8, 8), True)]
    found = compute_grad_cam(model, images, 0, maps[-1])
    assert found.shape == (64, 64)
    assert 0 <= found.min() < found.max() <= 1


def test_gradient_checkpointing_changes_nothing():
    model, images = timm.create_model('test_resnet', num_classes=3), torch.rand(1, 3, 64, 64)
    chosen = choose_map(run_forward(model, images).maps)
    expected = compute_grad_cam(model, images, 0, chosen)
    model.set_grad_checkpointing(True)
    chosen = choose_map(run_forward(model, images).maps)
    np.testing.assert_allclose(compute_grad_cam(model, images, 0, chosen), expected, atol=1e-5)
    assert model.grad_checkpointing
