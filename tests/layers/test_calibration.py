"""Calibrated batch norms: the backbone's function in train and eval mode, and no other change."""

import copy
import functools

import pytest
import timm
import torch
from backbones import random_backbone

from timm_convattn import calibrate_norms
from timm_convattn.layers.conv_attn import ConvAttn, Transition


@pytest.fixture
def images():
    return torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def models(tmp_path):
    """A resnet18 with random weights and statistics, and an aresnet18 that starts from it."""
    backbone = random_backbone('resnet18')
    torch.save(backbone.state_dict(), tmp_path / 'weights.pth')
    overlay = dict(file=str(tmp_path / 'weights.pth'))
    return backbone, timm.create_model('aresnet18_relmha', pretrained=True, pretrained_cfg_overlay=overlay)


def norms(model):
    return {
        f'{name}.{"norm" if isinstance(module, ConvAttn) else "bn"}'
        for name, module in model.named_modules()
        if isinstance(module, ConvAttn | Transition)
    }


@torch.no_grad()
def distance(ours, theirs, images):
    expected = theirs(images)
    return ((ours(images) - expected).norm() / expected.norm()).item()


def test_calibrated_model_equals_the_backbone_in_both_modes(models, images):
    backbone, model, images = models[0].double(), models[1].double(), images.double()
    assert distance(model.eval(), backbone.eval(), images) < 1e-6
    assert calibrate_norms(model, [images]) == 3
    assert distance(model.eval(), backbone.eval(), images) < 1e-6
    assert distance(model.train(), backbone.train(), images) < 1e-6


def test_calibrated_statistics_share_no_memory(models, images):
    calibrate_norms(models[1], [images])
    addresses = [value.untyped_storage().data_ptr() for value in models[1].state_dict().values()]
    assert len(set(addresses)) == len(addresses)


def test_norms_without_running_statistics_are_calibrated_as_well(images):
    norm_layer = functools.partial(torch.nn.BatchNorm2d, track_running_stats=False)
    block = ConvAttn(torch.nn.Conv2d(3, 16, 1), 3, 16, 64, num_heads=1, norm_layer=norm_layer)
    assert calibrate_norms(block, [images]) == 1
    assert block.norm.running_var is None
    torch.testing.assert_close(block(images)[:, :16], block.conv(images), atol=1e-4, rtol=1e-3)


def test_plain_start_is_far_from_the_backbone_in_train_mode(models, images):
    backbone, model = models
    assert distance(model.train(), backbone.train(), images) > 0.1


def test_attention_channels_are_normalised(models, images):
    _, model = models
    calibrate_norms(model, [images])
    with torch.no_grad():
        attention = model.train().forward_features(images)[:, 512:]
    torch.testing.assert_close(attention.mean((0, 2, 3)), torch.zeros(64), rtol=0, atol=1e-4)
    torch.testing.assert_close(attention.std((0, 2, 3)), torch.ones(64), rtol=0, atol=0.1)


def test_statistics_of_batches_are_averaged_in_the_dtype_of_the_model(models, images):
    model, (first, second) = models[1].double(), images.double().split(8)
    means = []
    for batches in ([first], [second + 2], [first, second + 2]):
        calibrated = copy.deepcopy(model)
        assert calibrate_norms(calibrated, batches) == 3
        means.append(torch.cat([calibrated.state_dict()[f'{name}.running_mean'] for name in sorted(norms(model))]))
    assert means[2].dtype == torch.float64
    torch.testing.assert_close(means[2], (means[0] + means[1]) / 2, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(means[0], means[1], rtol=0.1)
    assert calibrated(first).dtype == torch.float64


def test_only_the_fresh_batch_norms_change(models, images):
    _, model = models
    model.train().layer1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibrate_norms(model, [images, images])
    changed = {
        key.rpartition('.')[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == norms(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_second_calibration_and_trained_norms_change_nothing(models, images):
    _, model = models
    model.train()(images)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert calibrate_norms(model, [images]) == 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert calibrate_norms(timm.create_model('resnet18'), [images]) == 0


@pytest.mark.parametrize('learned', ['bias', 'running_mean', 'running_var'])
def test_norm_that_has_learned_one_thing_is_left_alone(models, images, learned):
    _, model = models
    norm = next(module.norm for module in model.modules() if isinstance(module, ConvAttn))
    with torch.no_grad():
        norm.state_dict()[learned][3] += 0.5
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    assert calibrate_norms(model, [images]) == 2
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_no_batches_are_refused_and_nothing_changes(models):
    _, model = models
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='wanted at least one'):
        calibrate_norms(model, [])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
