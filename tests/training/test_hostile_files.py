"""Invalid or malicious recipes, models, checkpoints and results are refused, and never run code."""

import contextlib
import copy
import io
import json
import pickle
import shutil

import datasets
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from test_survival import Bomb, rehash, resume

import timm_convattn  # noqa: F401
from timm_convattn.config import Config, parse_config
from timm_convattn.data.crops import built_crops
from timm_convattn.data.sources import open_crops
from timm_convattn.errors import InputError
from timm_convattn.hub import save_model
from timm_convattn.inference import Classifier, load_classifier
from timm_convattn.models.config import model_data_config
from timm_convattn.predictions import Predictions
from timm_convattn.rejection import Rejection
from timm_convattn.studies.matrix import read_matrix
from timm_convattn.training.finetune import finetune

FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def cases(number):
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=FIXTURES)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=12), st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
OPTIONS = ['epochs', 'img_size', 'lr', 'model', 'model_args', 'mean']
OPTIONS += ['optimizer', 'schedule', 'ema', 'data', 'resume', 'seed']


@pytest.mark.slow
def test_recipes_of_any_values_are_parsed_or_refused(tmp_path, capfd):
    path, seen = tmp_path / 'recipe.yaml', set()

    @cases(250)
    @given(st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=8), values, min_size=1, max_size=4))
    def check(recipe):
        path.write_text(yaml.dump(recipe, allow_unicode=True), errors='surrogatepass')
        try:
            seen.add(type(parse_config(['--config', str(path)])))
        except InputError:
            seen.add(InputError)

    check()
    assert seen == {Config, InputError}


LAUGHS = 'mean: [&a0 [lol], ' + ', '.join(f'&a{n} [{", ".join([f"*a{n - 1}"] * 10)}]' for n in range(1, 12)) + ']'


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        'epochs: [',
        'a: &a [*a]',
        'mean: &a [*a]',
        LAUGHS,
        '[' * 5000,
        'epochs: 2020-99-99',
        'epochs: ' + '9' * 5000,
        '!!python/object/apply:os.system ["true"]',
        '\0',
        'epochs: !!binary "////"',
        '? {a: b} : c',
    ],
)
@pytest.mark.parametrize(
    'read', [lambda path: parse_config(['--config', str(path)]), read_matrix], ids=['recipe', 'matrix']
)
def test_files_other_than_mappings_of_plain_values_are_refused(tmp_path, read, text):
    (tmp_path / 'file.yaml').write_text(text)
    with pytest.raises(InputError):
        read(tmp_path / 'file.yaml')


@pytest.mark.slow
def test_matrices_of_any_values_are_read_or_refused(tmp_path):
    path = tmp_path / 'matrix.yaml'
    whole = {
        'about': 'x',
        'seeds': [0],
        'options': {'epochs': 1},
        'studies': {'one': {'rows': {'a': {'model': 'resnet18'}}}},
    }

    of_matrix = ['about', 'seeds', 'options', 'studies']
    of_study = ['rows', 'grid', 'seeds', 'classes', 'title', 'score']
    of_row = ['model', 'against', 'paper', 'epochs', 'crops_seen', 'model_args', 'output']

    @cases(300)
    @given(st.sampled_from(of_matrix), st.sampled_from(of_study), st.sampled_from(of_row), st.integers(0, 2), values)
    def check(in_matrix, in_study, in_row, level, value):
        bent = copy.deepcopy(whole)
        study = bent['studies']['one']
        mapping, key = [(bent, in_matrix), (study, in_study), (study['rows']['a'], in_row)][level]
        mapping[key] = value
        path.write_text(yaml.dump(bent), errors='surrogatepass')
        with contextlib.suppress(InputError):
            read_matrix(path)

    check()


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    """A small saved model."""
    folder = tmp_path_factory.mktemp('hostile') / 'model'
    model = timm.create_model('convattn', backbone='test_resnet', num_classes=4)
    save_model(model, folder, ['person', 'vehicle', 'bicycle', 'dog'], model_data_config(model))
    return folder


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of it to modify."""
    shutil.copytree(tiny_model, tmp_path / 'model')
    return tmp_path / 'model'


def load(folder):
    return load_classifier(folder)


@pytest.mark.slow
def test_configurations_of_models_of_any_values_are_loaded_or_refused(model):
    path, seen = model / 'config.json', set()
    whole = json.loads(path.read_text())
    keys = [(key,) for key in whole] + [('pretrained_cfg', key) for key in whole['pretrained_cfg']]
    keys += [('model_args', key) for key in whole['model_args']]
    small = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 9),
        st.floats(),
        st.text(max_size=9),
        st.lists(st.integers(0, 3), max_size=3),
    )

    @cases(120)
    @given(st.sampled_from(keys), small)
    def check(keys, value):
        bent = copy.deepcopy(whole)
        inner = bent
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(json.dumps(bent))
        try:
            seen.add(type(load(model)))
        except InputError:
            seen.add(InputError)

    check()
    assert seen == {Classifier, InputError}


@pytest.mark.slow
def test_weights_of_any_bytes_are_loaded_or_refused(model):
    path = model / 'model.safetensors'
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], 'little') + 8

    @cases(120)
    @given(st.integers(0, header), st.binary(min_size=1, max_size=8), st.booleans())
    def check(start, new, cut):
        path.write_bytes(whole[:start] if cut else whole[:start] + new + whole[start + len(new) :])
        with contextlib.suppress(InputError):
            load(model)

    check()


def bent_weights(how, weights):
    name = 'head.fc.weight' if 'head.fc.weight' in weights else 'fc.weight'
    if how == 'foreign key':
        weights['stranger'] = torch.zeros(3)
    elif how == 'missing key':
        del weights[name]
    elif how == 'other shape':
        weights[name] = torch.zeros(7, 2)
    elif how == 'integers':
        weights[name] = weights[name].to(torch.int8)
    elif how == 'not a number':
        weights[name][0, 0] = float('nan')
    elif how == 'infinite':
        weights[name][0, 0] = float('inf')
    return weights


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('foreign key', 'the model has no stranger'),
        ('missing key', 'Missing key.*fc.weight'),
        ('other shape', 'size mismatch'),
        ('integers', 'fc.weight are of type I8, wanted floating point numbers'),
        ('not a number', 'fc.weight contain NaN or infinite values'),
        ('infinite', 'fc.weight contain NaN or infinite values'),
    ],
)
def test_weights_that_do_not_match_the_model_are_refused_by_name(model, tiny_config, how, message):
    path = model / 'model.safetensors'
    safetensors.torch.save_file(bent_weights(how, safetensors.torch.load_file(path)), path)
    with pytest.raises(InputError, match=f'(?s){message}'):
        load(model)
    with pytest.raises(InputError, match=f'(?s){message}'):
        finetune(tiny_config('--model', 'convattn', '--init-from', f'local-dir:{model}', '--in-chans', '3'))


def test_half_precision_weights_keep_their_values(model):
    path = model / 'model.safetensors'
    weights = {
        key: value.to(torch.bfloat16)
        if value.is_floating_point()
        else value.clone()  # else it maps the file that is written
        for key, value in safetensors.torch.load_file(path).items()
    }
    safetensors.torch.save_file(weights, path)
    loaded = load(model).model
    assert all(torch.equal(value, weights[key].to(value.dtype)) for key, value in loaded.state_dict().items())


def test_pickles_in_place_of_weights_are_never_run(model, tmp_path):
    mark = tmp_path / 'exploded'
    for name in ('model.safetensors', 'pytorch_model.bin'):
        (model / 'model.safetensors').unlink(missing_ok=True)
        (model / name).write_bytes(pickle.dumps({'fc.weight': Bomb(mark)}))
        with pytest.raises(InputError):
            load(model)
    assert not mark.exists()


@pytest.fixture(scope='module')
def one_epoch(tiny_crops, tmp_path_factory):
    """A finished run of one epoch, with its checkpoint."""
    folder = tmp_path_factory.mktemp('checkpoint') / 'run'
    options = ['--model', 'test_resnet', '--img-size', '32', '--batch-size', '8', '--ema', '--epochs', '1']
    return finetune(parse_config([*options, '--threads', '1', '--data', str(tiny_crops), '--output', str(folder)]))


@pytest.fixture
def checkpoint(one_epoch, tmp_path):
    """The only checkpoint of a copy of it, to modify."""
    shutil.copytree(one_epoch, tmp_path / 'run')
    return next((tmp_path / 'run').glob('checkpoints/epoch_*'))


def resume_from(checkpoint):
    rehash(checkpoint)  # as an attacker would
    return resume(checkpoint.parent.parent, '--epochs', '2')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('optimizer.bin', 'does not match this run'),
        ('model.safetensors', 'does not match this run'),
        ('averaged.safetensors', 'does not match this run'),
        ('random_states_0.pkl', 'All checkpoints in .* are damaged'),
    ],
)
def test_pickles_in_a_checkpoint_are_never_run(checkpoint, tmp_path, name, message):
    torch.save({'state': Bomb(tmp_path / 'exploded')}, checkpoint / name)
    with pytest.raises(InputError, match=message):
        resume_from(checkpoint)
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('name', ['model.safetensors', 'averaged.safetensors'])
@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('foreign key', 'stranger'),
        ('missing key', 'fc.weight'),
        ('other shape', 'size mismatch'),
        ('integers', 'fc.weight are of type I8, wanted floating point numbers'),
        ('not a number', 'fc.weight contain NaN or infinite values'),
        ('infinite', 'fc.weight contain NaN or infinite values'),
    ],
)
def test_weights_of_a_checkpoint_that_do_not_match_are_refused_by_name(checkpoint, name, how, message):
    path = checkpoint / name
    results = (checkpoint.parent.parent / 'results.json').read_bytes()
    safetensors.torch.save_file(bent_weights(how, safetensors.torch.load_file(path)), path)
    with pytest.raises(InputError, match=f'(?s){checkpoint} does not match this run.*{message}'):
        resume_from(checkpoint)
    assert (checkpoint.parent.parent / 'results.json').read_bytes() == results


def test_optimizer_of_another_network_in_a_checkpoint_is_refused(checkpoint):
    other = torch.optim.AdamW([torch.zeros(3, requires_grad=True)])
    torch.save(other.state_dict(), checkpoint / 'optimizer.bin')
    with pytest.raises(InputError, match='does not match this run'):
        resume_from(checkpoint)


@pytest.mark.parametrize('kind', ['rejection', 'predictions', 'crops'])
def test_rejection_predictions_and_crops_of_any_bytes_are_read_or_refused(tmp_path, kind):
    path = tmp_path / 'crops.json' if kind == 'crops' else tmp_path / 'file'
    if kind == 'rejection':
        Rejection(1.5, np.array([0.9, 0.6]), np.array([True, False])).save(tmp_path)
        path, read = tmp_path / 'rejection.json', Rejection.load
    elif kind == 'predictions':
        Predictions(np.zeros((3, 2), np.float32), np.zeros(3, np.int64), ('a', 'b')).save(path)
        read = Predictions.load
    else:
        made = {
            'origin': 'x',
            'layout': 'y',
            'is_starter_set': False,
            'class_names': ['a'],
            'counts': {'train': {'a': 1}},
        }
        path.write_text(json.dumps({**made, 'dropped': {}, 'options': {}}))
        read = lambda path: built_crops(path.parent)  # noqa: E731
    whole = path.read_bytes()
    read(path)

    @cases(120)
    @given(st.integers(0, len(whole)), st.integers(0, 20), st.binary(max_size=12))
    def check(start, gone, new):
        path.write_bytes(whole[:start] + new + whole[start + gone :])
        with contextlib.suppress(InputError):
            read(path)

    check()
    for contents in (b'', b'null', b'[]', b'{}', b'[' * 100_000, b'{"temperature": 1, "held_out": []}'):
        path.write_bytes(contents)
        with pytest.raises(InputError):
            read(path)


def crops_with(tmp_path, images, labels):
    features = datasets.Features(
        {'image': datasets.Image(decode=False), 'label': datasets.ClassLabel(names=['a', 'b'])}
    )
    rows = {'image': [{'bytes': image, 'path': None} for image in images], 'label': labels}
    (tmp_path / 'crops').mkdir()
    table = datasets.Dataset.from_dict(rows, features=features).cast_column('image', datasets.Image())
    for split in ('train', 'validation'):
        table.to_parquet(tmp_path / 'crops' / f'{split}-00000-of-00001.parquet')
    return str(tmp_path / 'crops')


@pytest.mark.parametrize(
    'args',
    [[], ['--plain-input'], ['--plain-input', '--num-workers', '1'], ['--streaming']],
    ids=['stored', 'plain', 'by a worker', 'streamed'],
)
def test_crop_that_cannot_be_decoded_is_named(tmp_path, tiny_config, args):
    buffer = io.BytesIO()
    Image.new('L', (9, 9)).save(buffer, 'PNG')
    good = buffer.getvalue()
    data = crops_with(tmp_path, [good, good, good[: len(good) // 2], good], [0, 1, 0, 1])
    with pytest.raises(
        InputError, match=r'^Crop 2 of the data set cannot be decoded \(.*\)\. Build the crops again\.$'
    ):
        finetune(tiny_config('--model', 'resnet10t', '--data', data, '--batch-size', '2', *args))


@pytest.mark.parametrize(
    'args',
    [[], ['--plain-input'], pytest.param(['--streaming'], marks=pytest.mark.slow)],
    ids=['stored', 'plain', 'streamed'],
)
def test_crop_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, tiny_config, monkeypatch, args):
    small, bomb = io.BytesIO(), io.BytesIO()
    Image.new('L', (9, 9)).save(small, 'PNG')
    Image.new('1', (8001, 8000)).save(bomb, 'PNG')  # a few kilobytes
    good, decoded = small.getvalue(), []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda image: (decoded.append(image.size), load(image))[1])
    data = crops_with(tmp_path, [good, bomb.getvalue(), good, good], [0, 1, 0, 1])
    with pytest.raises(InputError, match=r'Crop 1 .* \(it has 8001 x 8000 pixels, more than 64,000,000'):
        finetune(tiny_config('--model', 'test_resnet', '--data', data, '--batch-size', '2', *args))
    assert (9, 9) in decoded or args == ['--streaming']
    assert (8001, 8000) not in decoded


def test_labels_without_a_class_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.new('L', (9, 9)).save(buffer, 'PNG')
    data = crops_with(tmp_path, [buffer.getvalue()] * 3, [0, -1, None])
    with pytest.raises(InputError, match=r'2 crops have labels that are none of the 2 classes, the first is crop 1'):
        open_crops(data, ('train',))
