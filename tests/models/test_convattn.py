"""The block on other backbones: its position, its function, saving and loading, and refused arguments."""

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.models import save_for_hf

from timm_convattn import ConvAttn

BACKBONES = [
    'convnext_atto',
    'efficientnet_b0',
    'regnety_002',
    'mobilenetv4_conv_small',
    'densenet121',
    'resnet18',
    'vgg11_bn',
]


INPUT = ['input_size', 'mean', 'std', 'interpolation', 'crop_pct']


def create(backbone, **kwargs):
    torch.manual_seed(0)
    return timm.create_model('convattn', backbone=backbone, **{'num_classes': 4, 'img_size': 64, **kwargs})


@pytest.mark.parametrize('backbone', BACKBONES)
def test_any_backbone_with_maps_trains_and_takes_any_size(backbone):
    model = create(backbone)
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 4)
    logits.logsumexp(1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with torch.inference_mode():
        assert model.eval()(torch.randn(1, 3, 75, 48)).shape == (1, 4)


@pytest.mark.parametrize('stage', [-1, -2])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_convolutional_channels_of_a_fresh_model_are_the_backbones_maps(backbone, stage):
    model = create(backbone, stage=stage, dtype=torch.float64).eval()
    images = torch.randn(1, 3, 65, 64, dtype=torch.float64)
    stages = [s for s in model.stages if not any(isinstance(m, ConvAttn) for m in s.modules())]
    assert len(stages) == len(model.stages) - 1
    with torch.inference_mode():
        x, maps = images, []
        for stage_module in model.stages:
            blocks = [m for m in stage_module.modules() if isinstance(m, ConvAttn)]
            x = (blocks[0].conv if blocks else stage_module)(x)
            maps.append(x)
        for ours, theirs in zip(model.forward_intermediates(images, intermediates_only=True), maps, strict=True):
            torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs, rtol=1e-9, atol=1e-9)


def test_attention_reads_the_map_before_the_chosen_stage():
    info = timm.create_model('resnet18', features_only=True).feature_info
    for stage, before in ((-1, 3), (-2, 2), (2, 1)):
        model = create('resnet18', stage=stage)
        assert model.get_block().attn.qkv.in_channels == info.channels()[before]
        assert model.get_block().dim_out == info.channels()[before + 1]
        assert model.num_features == (576 if stage == -1 else 512)


@pytest.mark.parametrize('backbone', ['resnet18', 'regnety_002', 'convnext_atto'])
def test_saved_model_loads_with_equal_outputs(backbone, tmp_path):
    model = create(backbone, stage=-2, in_chans=1, num_heads=4).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    images = torch.randn(2, 1, 64, 64)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))


def test_pretrained_asks_for_the_backbones_own_weights():
    with pytest.raises((LocalEntryNotFoundError, OfflineModeIsEnabled)):
        create('resnet18', pretrained=True)


def test_images_are_those_of_the_backbone():
    ours = create('mobilevit_s', in_chans=1).pretrained_cfg
    theirs = timm.get_pretrained_cfg('mobilevit_s').to_dict()
    assert ours['architecture'] == 'convattn'
    assert theirs['mean'] == (0.0, 0.0, 0.0)  # not the default's, so that equality is informative
    assert {k: ours[k] for k in INPUT} == {k: theirs[k] for k in INPUT}


@pytest.mark.parametrize(('backbone', 'num_maps'), [('convnext_atto', 4), ('resnet18', 5), ('vgg11', 6)])
@pytest.mark.parametrize('feature_cls', ['list', 'dict', 'hook', 'getter'])
def test_features_are_all_maps_of_the_backbone(backbone, num_maps, feature_cls):
    features = create(backbone, num_classes=0, features_only=True, feature_cls=feature_cls)
    maps = features(torch.randn(1, 3, 64, 64))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert len(maps) == num_maps
    assert [m.shape[1] for m in maps] == features.feature_info.channels()


def test_set_input_size_equals_resampling_at_run_time():
    model = create('regnety_002').eval()
    images = torch.randn(1, 3, 97, 64)
    with torch.inference_mode():
        expected = model(images)
        model.set_input_size((97, 64))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backbone', ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'hardcorenas_a'])
def test_backbone_without_a_pyramid_of_maps_is_refused(backbone):
    with pytest.raises(ValueError, match=r'Take a backbone with stages, such as convnext_tiny or resnet50'):
        timm.create_model('convattn', backbone=backbone)


def test_backbone_whose_maps_the_attention_cannot_follow_is_refused():
    with pytest.raises(ValueError, match=r'makes maps of \(7, 7\) and \(7, 7\) from maps of 15 x 15 and 16 x 16'):
        timm.create_model('convattn', backbone='inception_v3')


def test_backbone_that_accepts_no_odd_maps_is_accepted():
    assert create('dla34').eval()(torch.randn(1, 3, 64, 96)).shape == (1, 4)


def test_image_that_is_too_small_for_the_backbone_is_refused():
    with pytest.raises(ValueError, match=r'img_size is 31 x 64 pixels, which the backbone cannot take'):
        create('vgg11', img_size=(31, 64))
    with pytest.raises(ValueError, match=r'img_size is 16 x 16 pixels'):
        create('vgg11').set_input_size(16)


@pytest.mark.parametrize('stage', [0, 5, -5])
def test_missing_stage_is_refused_with_the_available_ones(stage):
    with pytest.raises(ValueError, match=rf'resnet18 has no stage {stage} .* it has \[1, 2, 3, 4\]'):
        create('resnet18', stage=stage)


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match='num_head'):
        create('resnet18', num_head=4)
