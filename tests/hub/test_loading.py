"""Models from the Hub: published weights load unchanged, backbones are converted, pickles are refused."""

import dataclasses
import json
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch
from backbones import random_backbone
from huggingface_hub import constants
from timm.models import _registry

from timm_convattn.errors import InputError
from timm_convattn.factory import load_model
from timm_convattn.hub import save_model
from timm_convattn.hub.loading import fetch_weights
from timm_convattn.models.config import label_names

CLASSES = ['person', 'vehicle', 'bicycle', 'dog']
INPUT = dict(input_size=(3, 60, 60), interpolation='bilinear', mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0)
FAMILIES = {
    'aresnet18_relmha': {},
    'aaresnet50': {},
    'avgg11_bn_relmha': {},
    'aavgg16': {},
    'convattn': dict(backbone='mobilenetv4_conv_small', stage=-2),
}
IMAGES = torch.randn(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))


def upload(hub, folder, repo_id, token='hf_you'):
    """Upload a folder to a repository and return the commit."""
    api = hub.api(token)
    api.create_repo(repo_id, private=token == 'hf_you', exist_ok=True)
    return api.upload_folder(folder_path=folder, repo_id=repo_id).oid


@pytest.fixture(params=FAMILIES)
def published(request, hub, tmp_path):
    """A model of each family on the Hub, its repository and its commit."""
    torch.manual_seed(0)
    model = timm.create_model(request.param, num_classes=4, img_size=60, **FAMILIES[request.param]).eval()
    save_model(model, tmp_path / 'model', CLASSES, dict(INPUT, crop_mode='squash'))
    repo_id = hub.repo_id()
    return model, repo_id, upload(hub, tmp_path / 'model', repo_id)


def test_every_family_loads_with_equal_outputs_also_offline(published, hub, monkeypatch):
    model, repo_id, _ = published
    with torch.inference_mode():
        again = timm.create_model(f'hf-hub:{repo_id}', pretrained=True).eval()
        assert torch.equal(again(IMAGES), model(IMAGES))
        assert again.pretrained_cfg['label_names'] == CLASSES
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
        offline = load_model(f'hf-hub:{repo_id}')
        assert torch.equal(offline.eval()(IMAGES), model(IMAGES))
        assert label_names(offline) == CLASSES


def test_revision_pinned_by_its_commit_never_changes(published, hub, tmp_path):
    model, repo_id, commit = published
    with torch.inference_mode():
        expected = model(IMAGES)
        for parameter in model.parameters():
            parameter.zero_()
        save_model(model, tmp_path / 'model', CLASSES, dict(INPUT, crop_mode='squash'))
        upload(hub, tmp_path / 'model', repo_id)
        assert torch.equal(timm.create_model(f'hf-hub:{repo_id}@{commit}', pretrained=True).eval()(IMAGES), expected)
        assert not timm.create_model(f'hf-hub:{repo_id}', pretrained=True).eval()(IMAGES).any()


def test_tag_with_a_repository_loads_its_weights(published, hub, monkeypatch):
    model, repo_id, _ = published
    config = json.loads(hub.read(repo_id, 'config.json'))
    architecture = config['architecture']
    known = timm.get_pretrained_cfg(architecture)
    input_size = tuple(config['pretrained_cfg']['input_size'])
    cfg = dataclasses.replace(known, hf_hub_id=repo_id, tag='flir4', num_classes=4, input_size=input_size)
    cfg = dataclasses.replace(cfg, label_names=CLASSES)
    monkeypatch.setitem(_registry._model_pretrained_cfgs, f'{architecture}.flir4', cfg)
    again = timm.create_model(f'{architecture}.flir4', pretrained=True, img_size=60, **FAMILIES[architecture]).eval()
    with torch.inference_mode():
        assert torch.equal(again(IMAGES), model(IMAGES))
    assert again.pretrained_cfg['label_names'] == CLASSES


@pytest.fixture
def backbone_weights(hub, tmp_path):
    """Upload a backbone with random weights and statistics to the repository of timm, and return it."""

    def make(name, tag):
        backbone = random_backbone(name)
        (tmp_path / tag).mkdir()
        safetensors.torch.save_file(backbone.state_dict(), tmp_path / tag / 'model.safetensors')
        (tmp_path / tag / 'config.json').write_text(json.dumps({'architecture': name, 'pretrained_cfg': {}}))
        upload(hub, tmp_path / tag, f'timm/{tag}', token='hf_timm')
        return backbone

    return make


def test_pretrained_resnet_computes_the_function_of_its_backbone(hub, backbone_weights):
    backbone = backbone_weights('resnet50', 'resnet50.a1_in1k')
    model = timm.create_model('aresnet50_relmha', pretrained=True).eval()
    with torch.inference_mode():
        ours, theirs = model(IMAGES), backbone(IMAGES)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    kept = timm.create_model('aaresnet50', pretrained=True).layer4[0].conv2.weight
    assert torch.equal(kept, backbone.layer4[0].conv2.weight[:448])


@pytest.mark.slow
def test_pretrained_vgg_computes_the_features_of_its_backbone(hub, backbone_weights):
    backbone = backbone_weights('vgg16', 'vgg16.tv_in1k')
    model = timm.create_model('avgg16_relmha', pretrained=True, num_classes=4).eval()
    with torch.inference_mode():
        features = model.forward_features(IMAGES)[:, :512]
        torch.testing.assert_close(features, backbone.forward_features(IMAGES), rtol=1e-4, atol=1e-5)


def test_pretrained_convattn_loads_its_backbone_and_saves_without_it(hub, backbone_weights, tmp_path, monkeypatch):
    backbone = backbone_weights('mobilenetv4_conv_small', 'mobilenetv4_conv_small.e2400_r224_in1k')
    model = timm.create_model('convattn', backbone='mobilenetv4_conv_small', pretrained=True, num_classes=4).eval()
    assert torch.equal(model.stages[0].conv_stem.weight, backbone.conv_stem.weight)
    save_model(model, tmp_path / 'model', CLASSES, dict(INPUT, crop_mode='squash'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'empty'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    again = timm.create_model(f'local-dir:{tmp_path / "model"}', pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(again(IMAGES), model(IMAGES))


def test_repository_with_only_a_pickle_is_refused(hub, tmp_path):
    repo_id = hub.repo_id()
    (tmp_path / 'config.json').write_text('{"architecture": "aresnet18_relmha", "pretrained_cfg": {}}')
    torch.save({}, tmp_path / 'pytorch_model.bin')
    upload(hub, tmp_path, repo_id)
    with pytest.raises(InputError, match=r'has no model.safetensors, only pytorch_model.bin, which can run any code'):
        load_model(f'hf-hub:{repo_id}')
    with pytest.raises(InputError, match=r'has no model.safetensors, only pytorch_model.bin'):
        load_model(f'local-dir:{tmp_path}')


def test_file_name_outside_the_cache_is_not_followed(hub, tmp_path):
    repo_id, secret = hub.repo_id(), tmp_path / 'secret.safetensors'
    folder = tmp_path / 'model'
    save_model(timm.create_model('aresnet18_relmha', num_classes=4), folder, CLASSES, dict(INPUT, crop_mode='squash'))
    config = json.loads((folder / 'config.json').read_text())
    config['pretrained_cfg'] |= {'hf_hub_filename': f'../../../../../..{secret}', 'file': str(secret)}
    (folder / 'config.json').write_text(json.dumps(config))
    safetensors.torch.save_file({'fc.weight': torch.zeros(1)}, secret)
    upload(hub, folder, repo_id)
    with pytest.raises(InputError):
        load_model(f'hf-hub:{repo_id}')
    assert {path.name for path in tmp_path.iterdir()} <= {'model', 'secret.safetensors', 'hf_home'}


def test_missing_model_and_missing_weights_have_different_messages(hub, tmp_path):
    with pytest.raises(InputError, match=r'it does not exist, or the token has no access to it'):
        fetch_weights('hf-hub:you/nothing')
    repo_id = hub.repo_id()
    (tmp_path / 'config.json').write_text('{}')
    upload(hub, tmp_path, repo_id)
    with pytest.raises(InputError, match=r'has no model.safetensors, no weights at all'):
        fetch_weights(f'hf-hub:{repo_id}')
    with pytest.raises(InputError, match=r'no such revision'):
        fetch_weights(f'hf-hub:{repo_id}@v7')


@pytest.mark.parametrize('published', ['aresnet18_relmha', 'convattn'], indirect=True)
def test_plain_python_with_one_import_loads_a_published_model(published, environment):
    _, repo_id, _ = published
    program = f'import timm, timm_convattn; print(timm.create_model("hf-hub:{repo_id}", pretrained=True).num_classes)'
    run = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == '4', run.stderr
