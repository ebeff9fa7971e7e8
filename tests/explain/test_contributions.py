"""Contributions sum to the logit, and each is computed from its own channels."""

import pytest
import timm
import torch
import torch.nn as nn

import timm_convattn  # noqa: F401
from timm_convattn.explain import Contributions
from timm_convattn.explain.contributions import split_logits
from timm_convattn.explain.model import run_forward

NAMES = {
    'aresnet18_relmha': {},
    'avgg11_bn_relmha': {},
    'convattn': {'backbone': 'test_resnet'},
}


def create(name, **kwargs):
    """A model with random weights and statistics."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **kwargs).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    nn.init.normal_(model.get_classifier().bias)
    return model


def split(model, images):
    forward = run_forward(model, images)
    return forward.logits[0], split_logits(model, forward)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('global_pool', ['avg', 'max'])
def test_contributions_sum_to_the_logit_of_each_class(name, global_pool):
    model = create(name, img_size=64, global_pool=global_pool, **NAMES[name])
    logits, contributions = split(model, torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(torch.tensor([each.total for each in contributions]), logits, rtol=1e-5, atol=1e-5)
    assert all(each.conv != 0 and each.attention != 0 and each.bias != 0 for each in contributions)


def test_a_path_with_zero_weights_contributes_nothing():
    model, images = create('aresnet18_relmha', img_size=64), torch.rand(1, 3, 64, 64)
    _, before = split(model, images)
    with torch.no_grad():
        model.fc.weight[:, model.layer4[-1].dim_out :] = 0
    _, after = split(model, images)
    assert [each.attention for each in after] == [0, 0, 0]
    assert [each.conv for each in after] == [each.conv for each in before]
    nn.init.zeros_(model.fc.weight)
    assert [each.total for each in split(model, images)[1]] == pytest.approx(model.fc.bias.tolist())


def test_contributions_to_a_difference_are_the_differences():
    margin = Contributions(3.0, 1.0, 0.5) - Contributions(1.0, 2.0, 0.25)
    assert margin == Contributions(2.0, -1.0, 0.25)
    assert margin.total == 1.25


@pytest.mark.parametrize(
    'name, kwargs',
    [
        ('resnet18', {}),
        ('aaresnet18', {'img_size': 64}),
        ('convattn', {'backbone': 'test_resnet', 'stage': 1, 'img_size': 64}),
        ('aresnet18_relmha', {'img_size': 64, 'global_pool': 'catavgmax'}),
        ('test_efficientnet', {}),
    ],
)
def test_a_logit_that_is_not_such_a_sum_is_not_split(name, kwargs):
    model = timm.create_model(name, num_classes=3, **kwargs)
    assert split(model, torch.rand(1, 3, 64, 64))[1] is None
