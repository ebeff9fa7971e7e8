"""Every kind of model has the parameters, and computes the logits, that it had in version 0.1.0."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch

import timm_convattn  # noqa: F401  registers the models

EXPECTED = json.loads((Path(__file__).parent.parent / 'fixtures' / 'outputs_0.1.0.json').read_text())
LARGE = {'aresnet50_relmha'}


def create(name):
    args = {} if name.endswith('gap') else {'img_size': 60}
    if name == 'convattn':
        args |= {'backbone': 'test_resnet', 'stage': -1}
    return timm.create_model(name, num_classes=4, in_chans=1, **args).eval()


def seed_of(key):
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)


def fill(model):
    """Set each parameter from its name, so that neither the initialisation nor its order matters."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and 'running_var' not in key:
            fan_in = max(1, value[0].numel()) if value.dim() > 1 else 50
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed_of(key)))
            value.copy_(noise / fan_in**0.5 + float(value.dim() == 1 and key.endswith('weight')))
    return model


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in EXPECTED]
)
def test_parameters_and_logits_are_those_of_version_0_1_0(name):
    model, expected = fill(create(name)), EXPECTED[name]
    shapes = [f'{key} {tuple(value.shape)}' for key, value in sorted(model.state_dict().items())]
    assert hashlib.sha256('\n'.join(shapes).encode()).hexdigest() == expected['keys']
    assert sum(parameter.numel() for parameter in model.parameters()) == expected['parameters']
    images = torch.rand(2, 1, 60, 60, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), torch.tensor(expected['logits']), rtol=0, atol=1e-4)
