"""The registered models: shapes, defaults, weights of a backbone, and what timm expects of them."""

import re
import subprocess
import sys

import pytest
import timm
import torch
from backbones import random_backbone
from timm.models import save_for_hf

import timm_convattn
from timm_convattn import ConvAttn, RelMha2d

FAMILIES = ['aresnet', 'avgg']
PLAIN = ['vgg11_bn_gap', 'vgg16_gap']
MODELS = [name for name in timm.list_models(module=FAMILIES) if name not in PLAIN]  # those with attention
SMALLEST = ['aresnet18_relmha', 'aaresnet50', 'avgg11_relmha', 'avgg11_bn_relmha', 'aavgg16']  # of each kind
RESNETS = {f'aresnet{depth}_relmha': f'resnet{depth}' for depth in (18, 34, 50, 101)}
VGGS = {f'avgg{depth}{bn}_relmha': f'vgg{depth}{bn}' for depth in (11, 13, 16, 19) for bn in ('', '_bn')}
AUGMENTED_CONVOLUTIONS = ['aaresnet18', 'aaresnet50', 'aavgg11_bn', 'aavgg16']


def create(name, **kwargs):
    return timm.create_model(name, **{'num_classes': 4, **kwargs})


def test_the_papers_models_and_their_families_are_registered():
    assert set(MODELS) == {*RESNETS, *VGGS, *AUGMENTED_CONVOLUTIONS}
    assert set(PLAIN) < set(timm.list_models())
    assert timm.list_pretrained('aresnet50*') == ['aresnet50_relmha.a1_in1k']


def test_import_warns_of_nothing_and_adds_only_this_package():
    program = (
        'import sys, timm, torchvision; before = set(sys.modules); import timm_convattn;'
        'print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))'
    )
    run = subprocess.run([sys.executable, '-W', 'error::UserWarning', '-c', program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ''
    assert run.stdout.strip() == "['timm_convattn']"


@pytest.mark.parametrize('name', [*SMALLEST, 'aresnet50_relmha', 'avgg16_relmha'])
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
def test_every_size_from_32_to_130_is_taken(name):
    model = create(name, img_size=60, device='meta').eval()
    for size in range(
        32, 131, 9 if re.search(r'13|16|19|34|50|101', name) else 1
    ):  # the deeper ones behave the same at other sizes
        assert model(torch.empty(1, 3, size, 162 - size, device='meta')).shape == (1, 4)


@pytest.mark.parametrize('name', [name for name in MODELS if 'vgg' in name])
@pytest.mark.parametrize('size', [(31, 64), (64, 31), (1, 1)])
def test_image_too_small_for_a_vgg_is_refused(name, size):
    with pytest.raises(ValueError, match=rf'img_size is {size[0]} x {size[1]}, .* needs 32 x 32 pixels or more'):
        create(name, img_size=size, device='meta')
    model = create(name, device='meta')
    with pytest.raises(AssertionError, match=r'less than 32 pixels (high|wide)'):
        model(torch.empty(1, 3, *size, device='meta'))
    with pytest.raises(ValueError, match=r'needs 32 x 32 pixels or more'):
        model.set_input_size(size)


@pytest.mark.parametrize('name', SMALLEST)
def test_set_input_size_equals_resampling_at_run_time(name):
    torch.manual_seed(0)
    model = create(name, img_size=60).eval()
    images = torch.randn(1, 3, 97, 64)
    with torch.inference_mode():
        expected = model(images)
        model.set_input_size((97, 64))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    fresh = create(name, img_size=(97, 64))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}


@pytest.mark.parametrize('name', SMALLEST)
def test_scripted_model_computes_the_same_at_any_size(name):
    model = create(name, img_size=60).eval()
    scripted = torch.jit.script(model)
    with torch.inference_mode():
        for size in [(60, 60), (75, 48)]:
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(scripted(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'd_out', 'blocks', 'tables'),
    [
        ('aresnet18_relmha', 512, 2, [4, 2]),
        ('aresnet50_relmha', 2048, 3, [4, 2, 2]),
        ('avgg16_relmha', 512, 1, [3]),
    ],
)
def test_default_widths_and_tables_are_the_papers(name, d_out, blocks, tables):
    model = create(name, img_size=60)
    attentions = [module for module in model.modules() if isinstance(module, RelMha2d)]
    assert len(attentions) == blocks
    for attention, size in zip(attentions, tables, strict=True):
        assert attention.num_heads == 8
        assert attention.dim_qk == attention.dim_out == d_out // 8
        assert attention.height_rel.shape == attention.width_rel.shape == (2 * size - 1, d_out // 64)
    assert model.num_features == d_out + d_out // 8


@pytest.mark.parametrize('name', ['aresnet18_relmha', 'avgg11_relmha'])
def test_create_model_passes_attention_arguments(name):
    args = dict(num_heads=4, qk_ratio=0.5, v_ratio=0.25, rel_pos=False, qkv_bias=True, attn_proj=False, attn_drop=0.1)
    model = create(name, **args)
    for block in (module for module in model.modules() if isinstance(module, ConvAttn)):
        assert block.attn.num_heads == 4
        assert block.attn.dim_qk == block.dim_out // 2
        assert block.dim_attn == block.dim_out // 4
        assert block.attn.height_rel is None
        assert block.attn.qkv.bias is not None
        assert isinstance(block.attn.proj, torch.nn.Identity)
        assert block.attn.attn_drop.p == 0.1
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_lean_transitions_cut_85_of_112_million_parameters():
    sizes = [
        sum(p.numel() for p in create('aresnet50_relmha', transition_kernel=k, device='meta').parameters())
        for k in (3, 1)
    ]
    assert round(sizes[0] / 1e6) == 113
    assert 70e6 < sizes[0] - sizes[1] < 90e6


def test_unknown_argument_is_refused():
    for name in SMALLEST:
        with pytest.raises(TypeError, match='num_head'):
            create(name, num_head=4, device='meta')


def test_invalid_heads_are_refused_with_valid_ones():
    with pytest.raises(ValueError, match=r'qk_ratio=0.125 of 512 channels is 64, which num_heads=7 does not divide'):
        create('aresnet18_relmha', num_heads=7)


@pytest.mark.parametrize('name', MODELS)
def test_position_tables_are_not_decayed(name):
    model = create(name, device='meta')
    names = {n for n, _ in model.named_parameters() if n.endswith(('height_rel', 'width_rel'))}
    assert names
    assert model.no_weight_decay() == names


def backbone_weights(backbone, path, **kwargs):
    """A backbone with random weights and statistics, saved."""
    backbone = random_backbone(backbone, **kwargs)
    torch.save(backbone.state_dict(), path)
    return backbone


def pretrained(name, path, **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs).eval()


@pytest.mark.parametrize('name', RESNETS)
def test_resnet_weights_return_the_resnets_logits(name, tmp_path):
    backbone = backbone_weights(RESNETS[name], tmp_path / 'weights.pth')
    model = pretrained(name, tmp_path / 'weights.pth')
    images = torch.randn(2, 3, 96, 75)
    with torch.inference_mode():
        ours, theirs = model(images), backbone(images)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.argmax(1), theirs.argmax(1))


@pytest.mark.parametrize('name', VGGS)
def test_vgg_weights_return_vggs_features(name, tmp_path):
    backbone = backbone_weights(VGGS[name], tmp_path / 'weights.pth')
    model = pretrained(name, tmp_path / 'weights.pth')
    assert model.num_classes == 0
    images = torch.randn(1, 3, 75, 64)
    with torch.inference_mode():
        features = model.forward_features(images)
        torch.testing.assert_close(features[:, :512], backbone.forward_features(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'backbone', 'theirs', 'ours'),
    [
        ('aaresnet18', 'resnet18', 'layer4.1.conv1', 'layer4.1.conv1'),
        ('aaresnet50', 'resnet50', 'layer4.1.conv2', 'layer4.1.conv2'),
        ('aavgg16', 'vgg16', 'features.26', 'features.26'),
    ],
)
def test_augmented_convolutions_keep_the_first_filters(name, backbone, theirs, ours, tmp_path):
    backbone = backbone_weights(backbone, tmp_path / 'weights.pth')
    model = pretrained(name, tmp_path / 'weights.pth')
    conv, kept = backbone.get_submodule(theirs), model.get_submodule(ours)
    assert kept.weight.shape[0] == 448
    assert torch.equal(kept.weight, conv.weight[:448])
    x = torch.randn(1, 512, 6, 6)
    with torch.inference_mode():
        torch.testing.assert_close(kept(x)[:, :448], conv(x)[:, :448])
        assert kept(x).shape == conv(x).shape


@pytest.mark.parametrize('name', ['vgg11_bn_gap', 'avgg11_bn_relmha'])
def test_a_vgg_with_the_same_head_keeps_its_classifier(name, tmp_path):
    plain = create('vgg11_bn_gap').eval()
    torch.save(plain.state_dict(), tmp_path / 'weights.pth')
    model = create(name, pretrained=True, pretrained_cfg_overlay=dict(file=tmp_path / 'weights.pth', num_classes=4))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = plain(images)
        assert logits.shape == (2, 4)
        torch.testing.assert_close(model.eval()(images), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['aresnet18_relmha', 'avgg11_bn_relmha'])
def test_backbone_weights_fit_other_classes_channels_and_features(name, tmp_path):
    backbone = backbone_weights({**RESNETS, **VGGS}[name], tmp_path / 'weights.pth')
    images = torch.randn(2, 3, 64, 64)
    model = pretrained(name, tmp_path / 'weights.pth', num_classes=4)
    with torch.inference_mode():
        assert model(images).shape == (2, 4)
        features = model.forward_features(images)[:, :512]
        torch.testing.assert_close(features, backbone.forward_features(images), rtol=1e-4, atol=1e-5)
        grey = pretrained(name, tmp_path / 'weights.pth', num_classes=4, in_chans=1)
        mean = images.mean(1, keepdim=True)  # timm sums the filters of the first convolution over its channels
        features, expected = grey.forward_features(mean), model.forward_features(mean.expand(-1, 3, -1, -1))
        torch.testing.assert_close(features[:, :512], expected[:, :512], rtol=1e-3, atol=1e-4)
        maps = pretrained(name, tmp_path / 'weights.pth', features_only=True)(images)
        torch.testing.assert_close(maps[-1][:, :512], backbone.forward_features(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('mode', [{'num_classes': 4}, {'features_only': True}, {'in_chans': 1}, {}], ids=str)
def test_checkpoint_that_lacks_weights_is_refused_in_every_mode(mode, tmp_path):
    weights = timm.create_model('resnet18').state_dict()
    weights['layer1.0.renamed.weight'] = weights.pop('layer1.0.conv1.weight')
    torch.save(weights, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r'it lacks layer1\.0\.conv1\.weight .* has no layer1\.0\.renamed\.weight'):
        pretrained('aresnet18_relmha', tmp_path / 'weights.pth', **mode)


def test_position_table_of_another_attention_is_refused(tmp_path):
    torch.save(create('aresnet18_relmha', num_heads=4).state_dict(), tmp_path / 'weights.pth')
    with pytest.raises(
        ValueError, match=r'height_rel is \(27, 16\), wanted \(2 \* size - 1, 8\) .* Give the num_heads'
    ):
        pretrained('aresnet18_relmha', tmp_path / 'weights.pth', num_classes=4)
    weights = create('aresnet18_relmha').state_dict()
    weights['layer4.0.attn.height_rel'] = torch.zeros(26, 8)
    torch.save(weights, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r'height_rel is \(26, 8\)'):
        pretrained('aresnet18_relmha', tmp_path / 'weights.pth', num_classes=4)


def test_checkpoint_of_another_family_is_refused_without_classifier_too(tmp_path):
    torch.save(timm.create_model('resnet34').state_dict(), tmp_path / 'weights.pth')
    overlay = dict(file=str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match=r'does not fit this model: the model has no layer1.2'):
        create('aresnet18_relmha', pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize('name', SMALLEST)
def test_saved_model_loads_with_equal_outputs_and_at_another_size(name, tmp_path):
    model = create(name, img_size=60, in_chans=1, num_heads=4).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    images = torch.randn(2, 1, 60, 60)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert torch.equal(again(images), model(images))
    larger = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, img_size=96).eval()
    images = torch.randn(2, 1, 96, 96)
    torch.testing.assert_close(larger(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['aresnet18_relmha', 'avgg11_relmha', 'avgg11_bn_relmha'])
def test_features_are_those_of_every_stage(name):
    features = timm.create_model(name, features_only=True)
    maps = features(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == features.feature_info.reduction()
    assert maps[-1].shape[1] == 576


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert timm_convattn.__version__ == version('timm-convattn')
