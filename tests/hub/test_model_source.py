"""Every command, script and option that takes a model takes all of its spellings, and a revision pins all its files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from backbones import random_backbone
from huggingface_hub import constants
from PIL import Image
from script_runner import run_script

from benchmarks.models import Network
from timm_convattn.config import ModelConfig
from timm_convattn.errors import InputError
from timm_convattn.factory import create_model, load_model
from timm_convattn.hub import save_model
from timm_convattn.hub.publishing import run_publication
from timm_convattn.inference import load_classifier
from timm_convattn.model_source import ModelSource
from timm_convattn.rejection import Rejection
from timm_convattn.training.networks import create_network
from timm_convattn_cli import main

CLASSES = ['person', 'vehicle', 'bicycle', 'dog']
OTHERS = ['bus', 'car', 'tram', 'van']
INPUT = dict(input_size=(1, 32, 32), interpolation='bilinear', mean=(0.5,), std=(0.25,), crop_pct=1.0)
IMAGES = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
SPELLINGS = (
    'RUN',
    'RUN/model',
    'local-dir:RUN',
    'local-dir:RUN/model',
    'hf-hub:REPO',
    'hf_hub:REPO@COMMIT',
    'hf-hub:REPO@v1',
)


@pytest.mark.parametrize(
    ('spelling', 'source', 'text', 'title'),
    [
        ('resnet18', ModelSource(name='resnet18'), 'resnet18', 'resnet18'),
        ('resnet18.a1_in1k', ModelSource(name='resnet18.a1_in1k'), 'resnet18.a1_in1k', 'resnet18.a1_in1k'),
        ('./resnet18', ModelSource(folder=Path('resnet18')), 'local-dir:resnet18', 'resnet18'),
        ('runs/a', ModelSource(folder=Path('runs/a')), 'local-dir:runs/a', 'a'),
        (Path('runs/a/model'), ModelSource(folder=Path('runs/a/model')), 'local-dir:runs/a/model', 'a'),
        ('local-dir:b@c:d', ModelSource(folder=Path('b@c:d')), 'local-dir:b@c:d', 'b@c:d'),
        ('hf-hub:you/x.y', ModelSource(repo_id='you/x.y'), 'hf-hub:you/x.y', 'x.y'),
        ('hf_hub:you/x@refs/pr/1', ModelSource(None, None, 'you/x', 'refs/pr/1'), 'hf-hub:you/x@refs/pr/1', 'x'),
    ],
)
def test_spellings_are_parsed(spelling, source, text, title):
    parsed = ModelSource.parse(spelling)
    assert (parsed, str(parsed), parsed.title) == (source, text, title)
    assert ModelSource.parse(parsed) == parsed
    assert ModelSource.parse(text) == parsed or spelling == './resnet18'


@pytest.mark.parametrize('door', [create_model, load_model, load_classifier])
@pytest.mark.parametrize(
    ('spelling', 'message'),
    [
        ('https://huggingface.co/you/x', "'https://huggingface.co/you/x' is not the spelling of a model. Give "),
        ('hf-hub:x', "'hf-hub:x' is not the spelling of a model. Give "),
        ('hf-hub:you/x@', "'hf-hub:you/x@' is not the spelling of a model. Give "),
        ('local-dir:', "'local-dir:' is not the spelling of a model. Give "),
        ('run:1', "'run:1' is not the spelling of a model. Give "),
        ('you/x', "There is no model 'you/x'. Give "),
        ('', 'holds no model'),
        ('local-dir:nowhere', "There is no model 'nowhere'. Give "),
        ('resnet18@main', "There is no model 'resnet18@main'. Did you mean resnet18"),
        ('.', 'holds no model: it has no config.json. A run has it in its folder model.'),
    ],
)
def test_bad_spellings_are_refused(tmp_path, monkeypatch, door, spelling, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        door(spelling)


def save(folder, seed, class_names, temperature):
    torch.manual_seed(seed)
    model = timm.create_model('convattn', backbone='test_resnet', num_classes=4, in_chans=1)
    torch.nn.init.normal_(model.head.fc.weight)
    save_model(model, folder, class_names, dict(INPUT, crop_mode='squash'))
    Rejection(temperature, np.linspace(0.3, 1.0, 400), np.linspace(0.3, 1.0, 400) > 0.6).save(folder)


@pytest.fixture(scope='module')
def models(hub_server, tmp_path_factory):
    """A function that writes a spelling out: of a run, and of a repository with other files in its last commit."""
    run, other = tmp_path_factory.mktemp('runs') / 'first', tmp_path_factory.mktemp('other')
    save(run / 'model', 0, CLASSES, 2.0)
    save(other, 1, OTHERS, 3.0)
    api, first, second = hub_server.api(), hub_server.repo_id(), hub_server.repo_id()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {'HF_HUB_OFFLINE': False, 'HF_HUB_DISABLE_XET': True, 'ENDPOINT': hub_server.url}.items():
            patch.setattr(constants, name, value)
        for repo_id in (first, second):
            api.create_repo(repo_id, private=True)
            commit = api.upload_folder(folder_path=run / 'model', repo_id=repo_id).oid
        api.create_tag(second, tag='v1')
        api.upload_folder(folder_path=other, repo_id=second)

    def write_out(spelling):
        repo_id = second if '@' in spelling or 'MOVED' in spelling else first
        spelling = spelling.replace('RUN', str(run)).replace('REPO', repo_id).replace('MOVED', repo_id)
        return spelling.replace('COMMIT', commit)

    return write_out


def logits(model):
    with torch.inference_mode():
        return model.eval()(IMAGES)


DOORS = {
    'create_model': lambda model: create_model(model, pretrained=True),
    'load_model': load_model,
    'load_classifier': lambda model: load_classifier(model).model,
    'init_from': lambda model: create_network(ModelConfig(model='convattn', init_from=model), CLASSES, (32, 32)),
    'model': lambda model: create_network(ModelConfig(model=model, pretrained=True), CLASSES, (32, 32)),
}


@pytest.mark.parametrize('spelling', SPELLINGS)
@pytest.mark.parametrize('door', DOORS)
def test_functions_take_every_spelling(hub, models, door, spelling):
    assert torch.equal(logits(DOORS[door](models(spelling))), logits(load_model(models('RUN'))))


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'a.png'
    Image.effect_noise((40, 30), 80).save(path)
    return path


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_commands_take_every_spelling(hub, models, image, capsys, spelling):
    def outputs(model):
        for command in (['predict', model, image, '--csv', '--reject-at', '0.9'], ['info', model, '--json']):
            assert main([str(arg) for arg in command]) == 0
            yield capsys.readouterr().out

    (predicted, info), (expected, same) = outputs(models(spelling)), outputs(models('RUN'))
    assert predicted == expected
    assert {**json.loads(info), 'model': '', 'weights': ''} == {**json.loads(same), 'model': '', 'weights': ''}


@pytest.mark.parametrize('command', ['explain', 'export'])
def test_commands_that_take_long_load_what_is_named(image, monkeypatch, tmp_path, command):
    module, loaded = pytest.importorskip(f'timm_convattn_cli.{command}'), []
    monkeypatch.setattr(module, 'load_classifier', lambda model: loaded.append(model) or load_classifier('nowhere'))
    paths = [image, '--out', tmp_path / 'a.png'] if command == 'explain' else ['--out', tmp_path / 'a.pt']
    assert main([command, 'hf-hub:you/x@v1', *map(str, paths)]) == 1
    assert loaded == ['hf-hub:you/x@v1']


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_scripts_take_every_spelling(hub, models, root, tiny_crops, tmp_path, spelling):
    results = tmp_path / 'results.json'
    args = ('--data', tiny_crops, '--reject-at', '0.9', '--out', results, '--threads', 1)
    done = run_script(root / 'train_scripts' / 'validate.py', '--model', models(spelling), *args)
    assert done.returncode == 0, done.stderr
    assert json.loads(results.read_text())['rejection']['temperature'] == 2.0
    if 'hub' in spelling:
        with pytest.raises(InputError, match=f'{models(spelling)} is not the folder of a run. Give one'):
            run_publication(models(spelling), 'you/x')
    else:
        with pytest.raises(InputError, match=f'{models("RUN")} is not a finished run: it lacks results.json'):
            run_publication(models(spelling), 'you/x')
    assert Network('any', models(spelling)).create('meta').num_classes == 4


def test_a_revision_pins_every_file(hub, models):
    pinned, latest = load_classifier(models('hf-hub:REPO@v1')), load_classifier(models('hf-hub:MOVED'))
    assert (pinned.class_names, pinned.temperature) == (tuple(CLASSES), 2.0)
    assert (latest.class_names, latest.temperature) == (tuple(OTHERS), 3.0)
    assert not torch.equal(logits(pinned.model), logits(latest.model))


def test_a_name_of_timm_is_fetched_from_its_repository(hub, tmp_path):
    backbone, api = random_backbone('test_resnet'), hub.api('hf_timm')
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / 'model.safetensors')
    api.create_repo('timm/test_resnet.r160_in1k')
    api.upload_folder(folder_path=tmp_path, repo_id='timm/test_resnet.r160_in1k', allow_patterns='*.safetensors')
    for name in ('test_resnet', 'test_resnet.r160_in1k'):
        config = ModelConfig(model='test_resnet', init_from=name, in_chans=3)
        for model in (load_model(name), load_classifier(name).model, create_network(config, CLASSES, (32, 32))):
            assert torch.equal(model.conv1[0].weight, backbone.conv1[0].weight)
    with pytest.raises(InputError, match='convattn has no weights'):
        create_network(ModelConfig(model='convattn', init_from='convattn'), CLASSES, (32, 32))


def test_a_calibration_is_fetched_once_and_its_absence_is_cached(hub, models, tmp_path, monkeypatch):
    def fetched(model):
        count = sum('rejection.json' in str(request) for request in hub.requests())
        load_classifier(model, None if 'none' in model else 0.9)
        return sum('rejection.json' in str(request) for request in hub.requests()) - count

    repo_id = f'you/none-{tmp_path.parent.name}'
    hub.api().create_repo(repo_id, private=True)
    path = Path(models('RUN/model'))
    hub.api().upload_folder(folder_path=path, repo_id=repo_id, ignore_patterns='rejection.json')
    assert fetched(models('hf-hub:REPO')) <= 2  # HEAD and GET
    assert fetched(f'hf-hub:{repo_id}') == 1
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert load_classifier(models('hf-hub:REPO'), 0.9).temperature == 2.0
    assert load_classifier(f'hf-hub:{repo_id}').temperature == 1.0
