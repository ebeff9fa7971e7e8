"""Runs: what they leave, that they go on exactly where they stopped, and what they refuse before they start."""

import importlib.util
import json
import math
import os
import re
import runpy
import signal

import datasets
import pytest
import timm
import torch
import yaml
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file
from script_runner import run_script
from timm.optim import create_optimizer_v2 as make

from timm_convattn.config import parse_config
from timm_convattn.data.augment import Normalize
from timm_convattn.data.sources import open_crops
from timm_convattn.errors import InputError
from timm_convattn.factory import load_model
from timm_convattn.hub.loading import load_rejection
from timm_convattn.layers import calibrate_norms
from timm_convattn.models.config import pretrained_cfg
from timm_convattn.predictions import Predictions
from timm_convattn.training import finetune as finetune_module
from timm_convattn.training import loop, setup, stop
from timm_convattn.training.finetune import finetune
from timm_convattn.training.networks import create_network
from timm_convattn.training.run_folder import lock_path, parse_run
from timm_convattn.training.stop import MARKS, Interrupted


def test_run_folder_is_complete(tiny_config, tiny_crops):
    run = finetune(tiny_config())
    assert {path.name for path in run.iterdir()} == {
        *('config.yaml', 'log.jsonl', 'results.json', 'confusion_matrix.png', 'checkpoints', 'model'),
        'validation.safetensors',
    }
    log = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    assert [(entry['epoch'], entry['step']) for entry in log] == [
        (1, 3),
        (2, 6),
    ]  # 28 crops, of which an epoch drops the last 4
    results = json.loads((run / 'results.json').read_text())
    assert results['data']['class_names'] == ['person', 'vehicle', 'bicycle', 'dog']
    assert results['metrics']['num_samples'] == 11
    assert results['metrics']['absent_classes'] == ['dog']
    assert results['metrics']['accuracy'] == log[-1]['accuracy']
    assert results['training']['steps'] == 6
    assert results['training']['crops'] == {'person': 10, 'vehicle': 9, 'bicycle': 9, 'dog': 0}
    assert [(g['from_side'], g['num_samples']) for g in results['metrics']['by_size']] == [
        *((0, 0), (16, 0), (32, 11), (64, 0))
    ]
    assert results['environment']['versions']['timm'] == timm.__version__
    assert yaml.safe_load((run / 'config.yaml').read_text())['model'] == 'aresnet18_relmha'
    assert Image.open(run / 'confusion_matrix.png').width > 300
    assert len(list((run / 'checkpoints').iterdir())) == 2
    assert not list(run.rglob('*.bin.tmp'))


def test_saved_model_loads_with_timm_with_its_classes_and_input(tiny_config, tiny_crops):
    run = finetune(tiny_config('--mean', '0.3', '--std', '0.2'))
    model = timm.create_model(f'local-dir:{run / "model"}', pretrained=True).eval()
    assert model.pretrained_cfg['label_names'] == ['person', 'vehicle', 'bicycle', 'dog']
    config = timm.data.resolve_model_data_config(model)
    assert config['input_size'] == (1, 32, 32)
    assert [*config['mean'], *config['std']] == [0.3, 0.2]
    assert (config['crop_pct'], config['crop_mode'], config['interpolation']) == (1.0, 'squash', 'bilinear')
    transform = timm.data.create_transform(**config)
    crops = open_crops(str(tiny_crops), ('validation',))['validation']
    with torch.inference_mode():
        logits = torch.cat([model(transform(crop['image'])[None]) for crop in crops])
    results = json.loads((run / 'results.json').read_text())
    predicted = logits.argmax(1)
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    for true, found in zip(crops['label'], predicted, strict=True):
        matrix[true, found] += 1
    assert matrix.tolist() == results['metrics']['confusion_matrix']
    files = {path.name for path in (run / 'model').iterdir()}
    assert files == {'model.safetensors', 'config.json'}
    saved = json.loads((run / 'model' / 'config.json').read_text())
    assert not {'tag', 'origin_url', 'paper_ids', 'hf_hub_id'} & saved['pretrained_cfg'].keys()


def test_library_call_publishes_the_finished_run(tiny_config, monkeypatch, capsys):
    checked = []
    monkeypatch.setattr(finetune_module, 'check_right_to_write', checked.append)
    monkeypatch.setattr(finetune_module, 'publish', lambda publication: f'{publication.repo_id} {publication.public}')
    finetune(tiny_config('--model', 'test_resnet', '--epochs', '1', '--push-to-hub', 'you/tiny'))
    assert checked == ['you/tiny']
    assert capsys.readouterr().out.endswith('published: you/tiny False\n')


def test_stored_and_plain_input_train_to_the_same_weights(tiny_config):
    runs = [finetune(tiny_config(*args, output=str(len(args)))) for args in ([], ['--plain-input'])]
    stored, plain = (load_file(run / 'model' / 'model.safetensors') for run in runs)
    assert all(torch.equal(stored[key], plain[key]) for key in stored)
    entry = json.loads((runs[0] / 'log.jsonl').read_text().splitlines()[-1])
    assert 0 <= entry['waited_for_crops'] < entry['seconds']


def test_only_a_pretrained_start_is_calibrated(tiny_config, tmp_path):
    torch.save(timm.create_model('resnet18').state_dict(), tmp_path / 'resnet18.pth')
    pretrained = ['--pretrained', '--model-args', f'pretrained_cfg_overlay={{file: {tmp_path / "resnet18.pth"}}}']
    start = math.sqrt(1 + 1e-5)  # the weight of a norm that is identity in eval mode
    for output, args, calibrated in [
        ('default', pretrained, True),
        ('off', [*pretrained, '--calibrate', '0'], False),
        ('fresh', [], False),
    ]:
        run = finetune(tiny_config('--lr', '0', '--epochs', '1', *args, output=output))
        weight = load_file(run / 'model' / 'model.safetensors')['layer4.0.norm.weight']
        assert weight[512:].tolist() == pytest.approx([1 if calibrated else start] * 64)
        assert ((weight[:512] - start).abs().max() > 0.01) == calibrated


SMALL = ['--model', 'convattn', '--model-args', 'backbone=resnet10t']  # faster


def test_learnable_crops_are_learned(tiny_config):
    run = finetune(tiny_config(*SMALL, '--epochs', '12', '--hflip', '0', '--rotation', '0', '--shear', '0'))
    assert json.loads((run / 'results.json').read_text())['metrics']['macro_f1'] > 0.9


def interrupt_at(monkeypatch, call, *numbers):
    """Send signals, Ctrl-C by default, while a batch is normalized for a step."""
    calls = 0
    original = Normalize.__call__

    def interrupting(self, *args, **calibration):
        nonlocal calls
        calls += not calibration
        if calls == call:
            for number in numbers or [signal.SIGINT]:
                signal.raise_signal(number)
        return original(self, *args, **calibration)

    monkeypatch.setattr(Normalize, '__call__', interrupting)


OPTIONS = {
    'plain': SMALL,
    'averaged and accumulated': [*SMALL, '--ema', '--gradient-accumulation', '2', '--batch-size', '4'],
    'dropout': [*SMALL, 'attn_drop=0.2', '--drop-rate', '0.3', '--optimizer', 'momentum'],
    'pretrained': ['--pretrained', '--model-args', 'pretrained_cfg_overlay={file: BACKBONE}'],
}


@pytest.fixture(scope='module')
def whole_runs(tmp_path_factory):
    """Folder of the uninterrupted runs, and of the weights of a backbone."""
    folder = tmp_path_factory.mktemp('whole')
    save_file(timm.create_model('resnet18').state_dict(), folder / 'resnet18.safetensors')
    return folder


@pytest.mark.parametrize('call', [2, 3, 5])
@pytest.mark.parametrize('name', OPTIONS)
def test_interrupted_and_resumed_run_equals_uninterrupted_run(
    tiny_config, tmp_path, monkeypatch, whole_runs, name, call
):
    options = [option.replace('BACKBONE', str(whole_runs / 'resnet18.safetensors')) for option in OPTIONS[name]]
    whole = whole_runs / name
    if not whole.exists():
        finetune(tiny_config(*options, '--output', str(whole)))
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        with pytest.raises(Interrupted, match=r'Resume with: accelerate launch .* --resume') as stopped:
            finetune(tiny_config(*options, output='parts'))
    assert stopped.value.exit_code == 130
    parts = tmp_path / 'parts'
    assert not (parts / 'results.json').exists()
    args = ['--resume', str(parts)]
    assert finetune(parse_run(args)) == parts

    ours, theirs = load_file(parts / 'model' / 'model.safetensors'), load_file(whole / 'model' / 'model.safetensors')
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []

    def log(run):
        lines = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
        return [
            {key: value for key, value in line.items() if key not in ('seconds', 'waited_for_crops')} for line in lines
        ]

    assert log(parts) == log(whole)
    metrics = [json.loads((run / 'results.json').read_text())['metrics'] for run in (parts, whole)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize('numbers', [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]], ids=['once', 'passed on'])
def test_sigterm_writes_a_checkpoint_and_sets_the_exit_code(tiny_config, monkeypatch, tmp_path, numbers):
    interrupt_at(monkeypatch, 1, *numbers)
    with pytest.raises(Interrupted) as stopped:
        finetune(tiny_config('--model', 'test_resnet'))
    assert stopped.value.exit_code == 143
    assert [path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['epoch_0000_batch_000001']


@pytest.mark.parametrize('first', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_a_run_is_stopping_ends_it_at_once(tiny_config, monkeypatch, tmp_path, first):
    interrupt_at(monkeypatch, 1, first, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_config('--model', 'test_resnet'))
    assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_process_whose_launcher_died_stops_as_at_sigterm(tiny_config, monkeypatch, tmp_path):
    monkeypatch.setattr(stop, 'LAUNCHER', os.getpid())  # any but the parent
    with pytest.raises(Interrupted) as stopped:
        finetune(tiny_config('--model', 'test_resnet'))
    assert stopped.value.exit_code == 143
    assert [path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['epoch_0000_batch_000001']


@pytest.mark.parametrize(
    ('variables', 'launched'),
    [
        ({}, False),
        ({'ACCELERATE_MIXED_PRECISION': 'bf16', 'LOCAL_RANK': '0'}, False),
        *(({m: 'no'}, True) for m in MARKS),
    ],
    ids=str,
)
def test_only_a_launched_process_ends_with_its_parent(monkeypatch, variables, launched):
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert runpy.run_path(stop.__file__)['LAUNCHER'] == (os.getppid() if launched else None)


def test_latest_is_the_run_of_output(tiny_config, tmp_path):
    run = finetune(tiny_config())
    args = ['--resume', 'latest', '--output', str(run), '--epochs', '3']
    finetune(parse_run(args))
    assert len((run / 'log.jsonl').read_text().splitlines()) == 3


def test_resumed_run_cannot_change_options_that_the_weights_depend_on(tiny_config):
    run = finetune(tiny_config('--epochs', '1'))
    args = ['--resume', str(run), '--lr', '0.5', '--keep', '3']
    with pytest.raises(InputError, match=r'other options: lr \(0.001 -> 0.5\)'):
        parse_run(args)


@pytest.mark.parametrize('keep', [1, 2, 9])
def test_only_the_newest_checkpoints_are_kept(tiny_config, keep):
    run = finetune(tiny_config('--model', 'test_resnet', '--epochs', '4', '--keep', str(keep)))
    kept = [f'epoch_{epoch:04d}_batch_000000' for epoch in range(1, 5)][-keep:]
    assert sorted(path.name for path in (run / 'checkpoints').iterdir()) == kept


def test_fine_tuned_model_initializes_another_run(tiny_config, tiny_crops, flir_writer, tmp_path):
    run = finetune(tiny_config('--epochs', '1'))
    start = f'local-dir:{run / "model"}'
    again = finetune(
        tiny_config('--epochs', '1', '--lr', '0', '--init-from', start, '--img-size', '40', output='again')
    )
    before, after = (load_file(folder / 'model' / 'model.safetensors') for folder in (run, again))
    assert torch.equal(before['fc.weight'], after['fc.weight'])
    assert torch.equal(before['conv1.weight'], after['conv1.weight'])
    assert before['layer4.0.attn.height_rel'].shape == (3, 8)  # a map of 2 x 2
    assert after['layer4.0.attn.height_rel'].shape == (5, 8)  # resampled for one of 3 x 3


def test_model_of_other_classes_gets_a_new_classifier(tiny_config, monkeypatch):
    run = finetune(tiny_config('--epochs', '1'))
    config = tiny_config('--init-from', f'local-dir:{run / "model"}')
    saved = load_file(run / 'model' / 'model.safetensors')

    def classifier(class_names):
        return create_network(config.model, class_names, (32, 32)).get_classifier().weight

    assert torch.equal(classifier(['person', 'vehicle', 'bicycle', 'dog']), saved['fc.weight'])
    assert not torch.equal(classifier(['dog', 'person', 'vehicle', 'bicycle']), saved['fc.weight'])
    assert classifier(['person', 'vehicle']).shape == (2, saved['fc.weight'].shape[1])


def test_trained_backbone_initializes_an_augmented_model_of_equal_outputs(tiny_config, monkeypatch):
    plain = finetune(tiny_config('--model', 'resnet18', '--epochs', '1'))
    start = f'local-dir:{plain / "model"}'
    config = tiny_config('--init-from', start, '--epochs', '1', output='augmented')
    images = torch.rand(2, 1, 32, 32)
    names = ['person', 'vehicle', 'bicycle', 'dog']
    model, backbone = create_network(config.model, names, (32, 32)).eval(), load_model(start).eval()
    assert pretrained_cfg(model)['mean'] == pretrained_cfg(backbone)['mean']
    torch.testing.assert_close(model(images), backbone(images))
    other = create_network(config.model, ['dog', *names[:3]], (32, 32)).eval()  # a new classifier
    torch.testing.assert_close(*(net.forward_features(images)[:, :512] for net in (other, model)))
    assert not torch.equal(other.get_classifier().weight, model.get_classifier().weight)

    set_norms = []
    monkeypatch.setattr(loop, 'calibrate_norms', lambda *args: set_norms.append(calibrate_norms(*args)))
    run = finetune(config)
    assert set_norms == [3]  # of two blocks and a transition
    saved = json.loads((run / 'model' / 'config.json').read_text())
    assert str(plain) not in json.dumps(saved)


def test_parts_added_to_a_backbone_have_their_own_learning_rate(tiny_config, monkeypatch):
    seen = []
    monkeypatch.setattr(
        setup, 'create_optimizer_v2', lambda *args, **kwargs: seen.append(make(*args, **kwargs)) or seen[-1]
    )
    options = ['--epochs', '1', '--weight-decay', '0.1', '--schedule', 'constant', '--lr', '0.001']
    finetune(tiny_config(*options, '--added-lr-scale', '10'))
    groups = seen[0].param_groups
    assert sorted((group['lr'], group['weight_decay']) for group in groups) == [
        *((0.001, 0.0), (0.001, 0.1), (0.01, 0.0), (0.01, 0.1)),
    ]
    model = create_network(tiny_config().model, ['a', 'b', 'c', 'd'], (32, 32))
    added = [value for name, value in model.named_parameters() if re.search(r'layer4\.([024]\.(attn|norm)|1)\.', name)]
    assert len(added) == 2 * 7 + 3  # of two blocks and a transition
    count = sum(len(group['params']) for group in groups if group['lr'] == 0.01)
    assert count == len(added)
    assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))
    tables = [group for group in groups if group['lr'] == 0.01 and group['weight_decay'] == 0]
    assert (3, 8) in {tuple(value.shape) for value in tables[0]['params']}  # position tables do not decay


def test_learning_rate_of_added_parts_is_refused_without_such_parts(tiny_config):
    with pytest.raises(InputError, match=r'^added_lr_scale is 10\.0, but the model has nothing beyond its backbone'):
        finetune(tiny_config('--model', 'resnet18', '--added-lr-scale', '10'))


def test_weights_of_another_family_are_refused(tiny_config):
    run = finetune(tiny_config('--model', 'resnet18', '--epochs', '1'))
    args = ['--model', 'avgg11_relmha', '--init-from', f'local-dir:{run / "model"}']
    with pytest.raises(InputError, match=r'avgg11_relmha could not be created .*does not fit this model'):
        finetune(tiny_config(*args, output='other'))


def test_tensorboard_gets_the_log(tiny_config):
    run = finetune(tiny_config('--epochs', '1', '--tracker', 'tensorboard'))
    assert list(run.rglob('events.out.tfevents.*'))


@pytest.mark.skipif(importlib.util.find_spec('trackio') is not None, reason='trackio is installed')
def test_tracker_that_is_not_installed_is_refused(tiny_config, tmp_path):
    with pytest.raises(InputError, match=r'trackio is not installed: pip install'):
        finetune(tiny_config('--tracker', 'trackio'))
    assert not (tmp_path / 'run').exists()


def test_output_folder_that_is_not_empty_is_refused_and_not_changed(tiny_config, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'mine.txt').write_text('mine')
    with pytest.raises(InputError, match=r'is not empty. Name another --output, or resume the run in it: --resume'):
        finetune(tiny_config())
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['mine.txt']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--model', 'aresnet81_relmha'], r"no model 'aresnet81_relmha'. Did you mean aresnet"),
        (['--pretrained'], r'could not be reached, .* fill the cache \(HF_HOME\) there .* --no-pretrained'),
        (['--init-from', 'somewhere'], r"There is no model 'somewhere'"),
        (['--model-args', 'num_heads=7'], r'num_heads=7 does not divide'),
        (['--model-args', 'num_head=8'], r"unexpected keyword argument 'num_head'"),
        (['--model-args', 'num_heads'], r'wanted name=value'),
        (['--optimizer', 'sdg'], r"no optimizer 'sdg'; timm has adabelief, "),
        (['--optimizer', 'sgd', '--momentum', '0'], r"'sgd' cannot be created with lr 0.001, momentum 0.0 .* Nesterov"),
    ],
)
def test_invalid_options_are_refused_and_leave_no_run_folder(tiny_config, tmp_path, args, message):
    with pytest.raises(InputError, match=message):
        finetune(tiny_config(*args))
    assert not (tmp_path / 'run').exists()


def test_weights_of_another_architecture_are_refused(tiny_config):
    run = finetune(tiny_config('--epochs', '1'))
    args = ['--model', 'avgg16_relmha', '--init-from', f'local-dir:{run / "model"}']
    with pytest.raises(InputError, match=r'holds a model aresnet18_relmha, but model is avgg16_relmha'):
        finetune(tiny_config(*args, output='other'))


class TestSources:
    def test_folder_of_frames_is_refused_with_the_command_that_builds_crops(self, flir_writer):
        writer = flir_writer()
        writer.split('train', [[('person', [1, 1, 9, 9])]])
        with pytest.raises(InputError, match=r'holds frames, not crops. .*build_dataset.py --flir-root'):
            open_crops(str(writer.folder), ('train',))

    def test_missing_data_set_is_refused(self, tmp_path):
        with pytest.raises(InputError, match='could not be opened as a data set of crops'):
            open_crops(str(tmp_path / 'nowhere'), ('train',))
        with pytest.raises(InputError, match=r'Could not find a folder nobody/nothing, nor open the data set'):
            open_crops('nobody/nothing', ('train',))

    def test_missing_split_is_refused_and_the_existing_ones_named(self, tiny_crops):
        with pytest.raises(InputError, match=r'has no crops in test; it has train \(28\), validation \(11\)'):
            open_crops(str(tiny_crops), ('train', 'test'))

    @pytest.mark.parametrize(
        ('columns', 'message'),
        [
            ({'image': datasets.Image()}, r'column "label" is missing, wanted ClassLabel'),
            ({'label': datasets.ClassLabel(names=['a'])}, r'column "image" is missing, wanted Image'),
            (
                {'image': datasets.Image(), 'label': datasets.Value('string')},
                r'column "label" is Value, wanted ClassLabel.* Its columns are image \(Image\), label \(Value\)',
            ),
        ],
    )
    def test_data_set_without_the_needed_columns_is_refused(self, tmp_path, columns, message):
        row = {'image': Image.new('L', (4, 4)), 'label': 0 if columns.get('label') != datasets.Value('string') else 'x'}
        rows = {name: [row[name]] for name in columns}
        crops = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
        (tmp_path / 'data').mkdir()
        crops.to_parquet(tmp_path / 'data' / 'train-00000-of-00001.parquet')
        with pytest.raises(InputError, match=message):
            open_crops(str(tmp_path), ('train',))


def test_held_out_frames_are_not_trained_on_and_set_the_rejection(tiny_config, tiny_crops):
    run = finetune(tiny_config('--hold-out', '0.25', '--epochs', '1'))
    held_out, validation = (Predictions.load(run / f'{name}.safetensors') for name in ('held_out', 'validation'))
    assert (len(held_out.labels), len(validation.labels)) == (7, 11)
    results = json.loads((run / 'results.json').read_text())
    assert sum(results['training']['crops'].values()) == 21
    assert validation.hits.mean() == pytest.approx(results['metrics']['accuracy'])
    assert validation.labels.tolist() == open_crops(str(tiny_crops), ('validation',))['validation']['label'][:]
    rejection = load_rejection(f'local-dir:{run / "model"}')
    assert rejection.hits.sum() == held_out.hits.sum()


def test_validate_rejects_by_the_held_out_frames_and_draws_the_rejected(tiny_config, tiny_crops, root, tmp_path):
    model = f'local-dir:{finetune(tiny_config("--hold-out", "0.5", "--epochs", "4")) / "model"}'
    out, sheet = tmp_path / 'results.json', tmp_path / 'rejected.png'
    command = [root / 'train_scripts' / 'validate.py', '--model', model, '--data', tiny_crops, '--threads', 1]
    said = run_script(*command, '--reject-at', 0.99, '--out', out, '--rejected', sheet)
    assert said.returncode == 0, said.stderr
    rejection = json.loads(out.read_text())['rejection']
    assert rejection['target_error_rate'] == 0.99
    assert f'{rejection["num_answered"]} crops, coverage {rejection["coverage"]:.4f}' in said.stdout
    assert sheet.exists() == (rejection['coverage'] < 1)
    refused = run_script(*command, '--reject-at', 0.0001)
    assert refused.returncode == 1
    assert refused.stderr.count('\n') == 1
    assert 'held-out crops' in refused.stderr


RARE = {
    'balanced': ['--sampling', 'balanced'],
    'focal': ['--loss', 'focal', '--label-smoothing', '0.1'],
    'logit-adjusted': ['--loss', 'logit_adjusted', '--logit-adjustment', '0.5'],
}


@pytest.mark.parametrize('options', RARE.values(), ids=RARE)
def test_options_for_rare_classes_never_predict_a_class_without_crops(tiny_config, options):
    plain = ['--hflip', '0', '--rotation', '0', '--shear', '0']
    run = finetune(tiny_config(*SMALL, '--epochs', '12', *plain, *options))
    metrics = json.loads((run / 'results.json').read_text())['metrics']
    assert metrics['macro_f1'] > 0.75
    assert [row[3] for row in metrics['confusion_matrix']] == [0, 0, 0, 0]


@pytest.mark.parametrize('option', [['--hold-out', '0.1'], *list(RARE.values())[::2]])
def test_stream_refuses_options_that_need_all_labels(option):
    with pytest.raises(InputError, match='needs all labels before training'):
        parse_config(['--streaming', *option])


def test_averaged_batch_norms_forget_their_initial_statistics(tiny_config):
    options = [*SMALL, '--ema', '--epochs', '10', '--schedule', 'constant', '--optimizer', 'momentum', '--lr', '1e-4']
    run = finetune(tiny_config(*options, '--batch-size', '4', '--momentum', '0'))
    (checkpoint,) = sorted((run / 'checkpoints').iterdir())[-1:]
    last, averaged = (load_file(checkpoint / name) for name in ('model.safetensors', 'averaged.safetensors'))
    variances = [name for name in last if name.endswith('running_var')]
    small = [name for name in variances if last[name].mean() < 0.2]  # far from the 1 that they start from
    assert small
    for name in small:
        assert averaged[name].mean() < 1.5 * last[name].mean() + 0.05


def test_channels_last_trains_saves_and_resumes(tiny_config, tmp_path, monkeypatch):
    options = [*SMALL, '--channels-last', '--ema', '--evaluate-every', '2']
    whole = finetune(tiny_config(*options, output='whole'))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            finetune(tiny_config(*options, output='parts'))
    args = ['--resume', str(tmp_path / 'parts')]
    parts = finetune(parse_run(args))
    ours, theirs = (load_file(run / 'model' / 'model.safetensors') for run in (parts, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    log = [json.loads(line) for line in (whole / 'log.jsonl').read_text().splitlines()]
    assert ['accuracy' in entry for entry in log] == [False, True]


def test_folder_of_a_running_run_is_refused(tiny_config, tmp_path):
    with FileLock(lock_path(tmp_path / 'run')), pytest.raises(InputError, match='Another run works on'):
        finetune(tiny_config())
    assert not (tmp_path / 'run').exists()
    finetune(tiny_config('--epochs', '1'))
