"""The registered models: shapes, defaults, weights of a backbone, and what timm expects of them."""

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import save_for_hf

import timm_convattn
from timm_convattn import ConvAttn, RelMha2d

MODELS = timm.list_models(module=['aresnet', 'avgg'])
BACKBONES = {'aresnet18_relmha': 'resnet18', 'aresnet50_relmha': 'resnet50', 'avgg16_relmha': 'vgg16'}


def create(name, **kwargs):
    return timm.create_model(name, **{'num_classes': 4, **kwargs})


def test_the_papers_models_are_registered():
    assert set(MODELS) == {'aresnet18_relmha', 'aresnet50_relmha', 'avgg16_relmha'}
    assert timm.list_models('*relmha') == MODELS
    assert timm.list_pretrained('aresnet50*') == ['aresnet50_relmha.a1_in1k']


def test_import_warns_of_nothing_and_brings_only_torch_and_timm():
    program = (
        'import sys, timm, torchvision; before = set(sys.modules); import timm_convattn;'
        'print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))'
    )
    run = subprocess.run([sys.executable, '-W', 'error::UserWarning', '-c', program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ''
    assert run.stdout.strip() == "['timm_convattn']"


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize(('size', 'in_chans'), [(60, 1), (60, 3), (224, 3)])
def test_models_train_and_infer(name, size, in_chans):
    model = create(name, img_size=size, in_chans=in_chans)
    images = torch.randn(2, in_chans, size, size)
    logits = model(images)
    assert logits.shape == (2, 4)
    logits.logsumexp(1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.inference_mode():
        assert model.eval()(images).isfinite().all()


@pytest.mark.parametrize('name', MODELS)
def test_any_size_is_taken_at_run_time(name):
    model = create(name, img_size=60).eval()
    for size in [(32, 32), (33, 47), (60, 60), (97, 40)]:
        assert model(torch.randn(1, 3, *size)).shape == (1, 4)


@pytest.mark.parametrize(
    ('name', 'd_out', 'forms', 'tables'),
    [
        ('aresnet18_relmha', 512, 2, [4, 2]),
        ('aresnet50_relmha', 2048, 3, [4, 2, 2]),
        ('avgg16_relmha', 512, 1, [3]),
    ],
)
def test_default_widths_and_tables_are_the_papers(name, d_out, forms, tables):
    model = create(name, img_size=60)
    attentions = [module for module in model.modules() if isinstance(module, RelMha2d)]
    assert len(attentions) == forms
    for attention, size in zip(attentions, tables, strict=True):
        assert attention.num_heads == 8
        assert attention.dim_qk == attention.dim_out == d_out // 8
        assert attention.height_rel.shape == attention.width_rel.shape == (2 * size - 1, d_out // 64)
    assert model.num_features == d_out + d_out // 8


@pytest.mark.parametrize('name', MODELS)
def test_attention_can_be_told_from_create_model(name):
    args = dict(num_heads=4, qk_ratio=0.5, v_ratio=0.25, rel_pos=False, qkv_bias=True, attn_proj=False, attn_drop=0.1)
    model = create(name, **args)
    for form in (module for module in model.modules() if isinstance(module, ConvAttn)):
        assert form.attn.num_heads == 4
        assert form.attn.dim_qk == form.dim_out // 2
        assert form.dim_attn == form.dim_out // 4
        assert form.attn.height_rel is None
        assert form.attn.qkv.bias is not None
        assert isinstance(form.attn.proj, torch.nn.Identity)
        assert form.attn.attn_drop.p == 0.1
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_lean_transitions_cut_85_of_112_million_parameters():
    sizes = [
        sum(p.numel() for p in create('aresnet50_relmha', transition_kernel=k, device='meta').parameters())
        for k in (3, 1)
    ]
    assert round(sizes[0] / 1e6) == 113
    assert 70e6 < sizes[0] - sizes[1] < 90e6


def test_unknown_argument_is_refused():
    for name in MODELS:
        with pytest.raises(TypeError, match='num_head'):
            create(name, num_head=4)


def test_heads_that_do_not_fit_are_refused_with_what_would():
    with pytest.raises(ValueError, match=r'qk_ratio=0.125 of 512 channels is 64, which num_heads=7 does not divide'):
        create('aresnet18_relmha', num_heads=7)


@pytest.mark.parametrize('name', MODELS)
def test_position_tables_are_not_decayed(name):
    model = create(name)
    names = {n for n, _ in model.named_parameters() if n.endswith(('height_rel', 'width_rel'))}
    assert names
    assert model.no_weight_decay() == names


def backbone_weights(name, path, **kwargs):
    """A backbone with random weights and statistics, saved; equality then means something."""
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONES[name], **kwargs).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    torch.save(backbone.state_dict(), path)
    return backbone


@pytest.mark.parametrize('name', ['aresnet18_relmha', 'aresnet50_relmha'])
def test_resnet_weights_give_the_resnets_logits(name, tmp_path):
    backbone = backbone_weights(name, tmp_path / 'weights.pth')
    overlay = dict(file=str(tmp_path / 'weights.pth'))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), backbone(images), rtol=1e-4, atol=1e-4)


def test_vgg_weights_give_vggs_features(tmp_path):
    backbone = backbone_weights('avgg16_relmha', tmp_path / 'weights.pth')
    overlay = dict(file=str(tmp_path / 'weights.pth'))
    model = timm.create_model('avgg16_relmha', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert model.num_classes == 0
    images = torch.randn(1, 3, 75, 96)
    with torch.inference_mode():
        features = model.forward_features(images)
        torch.testing.assert_close(features[:, :512], backbone.forward_features(images), rtol=1e-4, atol=1e-5)


def test_checkpoint_of_another_family_is_refused_even_without_its_classifier(tmp_path):
    torch.save(timm.create_model('resnet34').state_dict(), tmp_path / 'weights.pth')
    overlay = dict(file=str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match=r'does not fit this model: the model has no layer1.2'):
        create('aresnet18_relmha', pretrained=True, pretrained_cfg_overlay=overlay)


def test_backbone_checkpoint_with_missing_weights_is_refused(tmp_path):
    weights = timm.create_model('resnet18').state_dict()
    del weights['layer1.0.conv1.weight']
    torch.save(weights, tmp_path / 'weights.pth')
    overlay = dict(file=str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match=r'it lacks layer1.0.conv1.weight \(1 in all\)'):
        create('aresnet18_relmha', pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize('name', ['aresnet18_relmha', 'avgg16_relmha'])
def test_saved_model_loads_with_equal_outputs_and_at_another_size(name, tmp_path):
    model = create(name, img_size=60, in_chans=1, num_heads=4).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    images = torch.randn(2, 1, 60, 60)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert torch.equal(again(images), model(images))
    larger = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, img_size=96).eval()
    images = torch.randn(2, 1, 96, 96)
    torch.testing.assert_close(larger(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['aresnet18_relmha', 'avgg16_relmha'])
def test_features_are_those_of_every_stage(name):
    features = timm.create_model(name, features_only=True)
    maps = features(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == features.feature_info.reduction()
    assert maps[-1].shape[1] == 576


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert timm_convattn.__version__ == version('timm-convattn')
