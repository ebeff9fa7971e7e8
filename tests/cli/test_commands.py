import json
import re
import shutil
import subprocess

import pytest
import timm

import timm_convattn
from timm_convattn_cli import COMMANDS


def test_help_names_every_command_in_one_line_and_version_is_the_packages(cli):
    done = cli('--help')
    assert done.returncode == 0
    shown = done.stdout.split('subcommands')[1]
    assert re.findall(r'^\W*(\w+)  +[A-Z]', shown, flags=re.MULTILINE) == list(COMMANDS)
    assert '$ timm-convattn' not in shown
    assert cli('--version').stdout == f'timm-convattn {timm_convattn.__version__}\n'


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command_has_examples(cli, name):
    done = cli(name, '--help')
    assert done.returncode == 0
    assert f'$ timm-convattn {name}' in done.stdout


def test_unreadable_command_lines_end_with_status_2(cli):
    assert cli('predictt').returncode == 2
    assert cli('export', 'resnet18').returncode == 2


@pytest.mark.skipif(shutil.which('bash') is None, reason='there is no bash to complete commands in')
def test_completion_is_a_script_that_bash_takes(cli):
    script = cli('--tyro-print-completion', 'bash').stdout
    assert 'predict' in script
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)


def test_models_counts_what_the_models_have(cli):
    done = cli('models', 'aresnet18*', '--json', '--num-classes', 7)
    (row,) = json.loads(done.stdout)
    model = timm.create_model('aresnet18_relmha', num_classes=7)
    assert row['parameters'] == sum(parameter.numel() for parameter in model.parameters())
    assert row['img_size'] == [224, 224]
    assert row['macs'] > 10 * row['macs_small'] > 0
    assert row['weights'] == "its backbone's: timm/resnet18.a1_in1k"


def test_models_shows_a_table_and_says_where_else_a_name_is(cli):
    done = cli('models', 'avgg11*')
    header, *rows = done.stdout.splitlines()
    assert header.split()[:2] == ['model', 'parameters']
    assert [row.split()[0] for row in rows] == ['avgg11_bn_relmha', 'avgg11_relmha']
    assert 'give --timm' in cli('models', 'vit_tiny').stderr
    assert cli('models', 'no such model').returncode == 1
    (vit,) = json.loads(cli('models', 'test_vit?', '--timm', '--json').stdout)[:1]
    assert vit['macs'] > 0
    assert vit['macs_small'] is None  # it takes one size alone


def test_info_says_what_a_saved_model_is(cli, model_folder):
    record = json.loads(cli('info', model_folder, '--json').stdout)
    assert record['architecture'] == 'aresnet18_relmha'
    assert record['class_names'] == ['person', 'vehicle', 'bicycle', 'dog']
    assert record['input']['input_size'] == [1, 32, 32]
    assert record['rejection']['held_out'] == 400
    assert [layer['layer'] for layer in record['attention']] == ['layer4.0.attn', 'layer4.2.attn']
    assert [layer['feat_size'] for layer in record['attention']] == [[2, 2], [1, 1]]
    assert record['stages'][-1]['num_chs'] == 576
    text = cli('info', f'local-dir:{model_folder}').stdout
    assert '32 x 32 pixels, grey' in text
    assert '4: person, vehicle, bicycle, dog' in text
    assert 'layer4.2.attn' in text


def test_info_knows_models_that_are_not_trained_and_those_without_attention(cli):
    assert 'none: it gives features' in cli('info', 'avgg11_relmha').stdout
    assert 'no attention of ours' in cli('info', 'resnet18').stdout
    done = cli('info', 'aresnet50')
    assert done.returncode == 1
    assert 'Did you mean aresnet50_relmha' in done.stderr or 'Did you mean' in done.stderr


def test_data_counts_a_folder_of_frames(cli, tiny_frames):
    done = cli('data', tiny_frames, '--check-images')
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ['train', '28', '28', '0', '48', 'x', '64', '(28)'] in lines
    assert ['person', 'person', '10', '4'] in lines
    assert ['vehicle', '9', '4'] in lines
    assert ['person', '40', '40', '40', '40', '40'] in lines
    assert 'no problem was found; all 39 frames decode' in done.stdout


def test_data_names_what_stops_a_build(cli, flir_writer):
    writer = flir_writer(size=(64, 48))
    writer.split('train', [[('person', [1, 1, 9, 9])], [('car', [1, 1, 9, 9]), ('car', [90, 90, 9, 9])]])
    first, second = writer.frames('train')
    first.unlink()
    second.write_bytes(second.read_bytes()[:300])
    done = cli('data', writer.folder, '--check-images')
    assert done.returncode == 1
    assert 'problems that stop a build of crops: 2' in done.stdout
    assert '1 annotated frames are not on disk: train/thermal_8_bit/TEST_00000.jpeg' in done.stdout
    assert 'TEST_00001.jpeg cannot be decoded' in done.stdout
    assert ['train', '1', 'box', 'outside', 'its', 'frame'] in [line.split() for line in done.stdout.splitlines()]


def test_data_knows_a_folder_of_crops_and_refuses_another(cli, tiny_crops, tmp_path):
    done = cli('data', tiny_crops)
    assert done.returncode == 0
    assert ['train', '10', '9', '9', '0', '28'] in [line.split() for line in done.stdout.splitlines()]
    assert 'is of neither FLIR layout' in cli('data', tmp_path).stderr
    assert cli('data', tmp_path / 'nowhere').returncode == 1


def test_export_writes_beside_and_says_how_near_it_is(cli, model_folder, tmp_path):
    done = cli('export', model_folder, '--out', tmp_path / 'model.pt', '--dynamic')
    assert done.returncode == 0, done.stderr
    assert 'torchscript' in done.stdout
    assert 'largest difference of a logit' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['model.pt']
    assert 'Give --format' in cli('export', model_folder, '--out', tmp_path / 'model.xyz').stderr


def test_explain_draws_and_says(cli, model_folder, images, tmp_path):
    pytest.importorskip('matplotlib')
    out = tmp_path / 'why.png'
    done = cli('explain', model_folder, images / 'a.png', '--out', out, '--label', 'dog', '--position', 3, 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('dog ')
    assert out.read_bytes().startswith(b'\x89PNG')
    wrong = cli('explain', model_folder, images / 'a.png', '--out', out, '--label', 'cat')
    assert wrong.returncode == 1
    assert wrong.stderr.startswith('error: ')
    assert 'wanted the name of a PNG' in cli('explain', model_folder, images / 'a.png', '--out', 'why.txt').stderr
