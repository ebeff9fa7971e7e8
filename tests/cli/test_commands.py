import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import timm

import timm_convattn
from timm_convattn.export import Format
from timm_convattn.models import MODULES
from timm_convattn_cli.commands import COMMANDS, Export
from timm_convattn_cli.info import build_record, read_record
from timm_convattn_cli.models import build_description


def test_help_has_a_line_for_every_command_and_version_is_the_packages(cli):
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


def test_invalid_command_lines_end_with_status_2(cli):
    assert cli('predictt').returncode == 2
    assert cli('export', 'resnet18').returncode == 2


@pytest.mark.skipif(shutil.which('bash') is None, reason='bash is not installed')
def test_completion_is_a_script_that_bash_parses(cli):
    script = cli('--tyro-print-completion', 'bash').stdout
    assert 'predict' in script
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)


HEAVY = ('torch', 'timm', 'timm_convattn', 'torchvision', 'datasets', 'scipy', 'matplotlib', 'numpy', 'PIL')
START = """
import sys
from timm_convattn_cli import main
try:
    assert main() == 0
except SystemExit as ended:
    assert not ended.code
print('imported:', *sorted({name.split('.')[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    'args',
    [['--help'], ['--version'], ['predict', '--help'], ['models'], ['info', 'aresnet50_relmha'], ['info', 'SAVED']],
)
def test_commands_that_only_read_import_neither_torch_nor_timm(model_folder, args):
    command = [sys.executable, '-c', START, *(str(model_folder) if arg == 'SAVED' else arg for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert 'timm_convattn_cli' in imported
    assert imported & set(HEAVY) == set()


def test_the_table_lists_the_registered_models_in_the_order_of_timm(cli):
    rows = json.loads(cli('models', '--json').stdout)
    assert [row['model'] for row in rows] == timm.list_models(module=MODULES)


@pytest.mark.parametrize('name', timm.list_models(module=MODULES))
def test_the_table_equals_what_a_built_model_is(cli, name):
    assert json.loads(json.dumps(build_record(name))) == read_record(name)
    for num_classes in (0, 7):
        network = build_description(name, num_classes)['network']
        (row,) = json.loads(cli('models', name, '--num-classes', num_classes, '--json').stdout)[:1]
        assert row['model'] == name
        assert row['parameters'] == network['parameters']
        assert [row['macs_small'], row['macs']] == list(network['macs'].values())


def test_a_saved_models_description_is_that_of_the_built_model(model_folder):
    read = read_record(str(model_folder))
    assert read == json.loads(json.dumps(build_record(str(model_folder))))
    assert read['num_classes'] == 4


@pytest.mark.parametrize('content', ['', '[]', '{"architecture": "aresnet18_relmha"}'])
def test_a_config_without_a_description_of_the_network_is_left_to_timm(model_folder, tmp_path, content):
    assert read_record(f'local-dir:{tmp_path}') is None
    (tmp_path / 'config.json').write_text(content)
    assert read_record(str(tmp_path)) is None


def test_a_model_saved_without_a_description_is_built(cli, model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / 'old'))
    config = json.loads((folder / 'config.json').read_text())
    network = config.pop('network')
    (folder / 'config.json').write_text(json.dumps(config))
    record = json.loads(cli('info', folder, '--json').stdout)
    assert {key: record[key] for key in ('class', 'parameters', 'macs', 'stages', 'attention')} == {
        key: value for key, value in network.items() if key != 'num_features'
    }


def test_formats_of_export_are_those_of_the_package():
    assert get_type_hints(Export)['format'] == Format | None


def test_models_counts_equal_those_of_the_built_model(cli):
    done = cli('models', 'aresnet18*', '--json', '--num-classes', 7)
    (row,) = json.loads(done.stdout)
    model = timm.create_model('aresnet18_relmha', num_classes=7)
    assert row['parameters'] == sum(parameter.numel() for parameter in model.parameters())
    assert row['img_size'] == [224, 224]
    assert row['macs'] > 10 * row['macs_small'] > 0
    assert row['weights'] == "its backbone's: timm/resnet18.a1_in1k"


def test_models_prints_a_table_and_suggests_timm(cli):
    done = cli('models', 'avgg11*')
    header, *rows = done.stdout.splitlines()
    assert header.split()[:2] == ['model', 'parameters']
    assert [row.split()[0] for row in rows] == ['avgg11_bn_relmha', 'avgg11_relmha']
    assert 'add --timm' in cli('models', 'vit_tiny').stderr
    assert cli('models', 'no such model').returncode == 1
    (vit,) = json.loads(cli('models', 'test_vit?', '--timm', '--json').stdout)[:1]
    assert vit['macs'] > 0
    assert vit['macs_small'] is None  # it accepts one size alone


def test_info_describes_a_saved_model(cli, model_folder):
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


def test_info_describes_untrained_models_and_those_without_attention(cli):
    assert 'none: the output is features' in cli('info', 'avgg11_relmha').stdout
    assert 'no attention layer of this package' in cli('info', 'resnet18').stdout
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
    assert 'no problem found; all 39 frames decode' in done.stdout


def test_data_reports_the_problems_that_stop_a_build(cli, flir_writer):
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


def test_data_describes_a_folder_of_crops_and_refuses_another(cli, tiny_crops, tmp_path):
    done = cli('data', tiny_crops)
    assert done.returncode == 0
    assert ['train', '10', '9', '9', '0', '28'] in [line.split() for line in done.stdout.splitlines()]
    assert 'has neither FLIR layout' in cli('data', tmp_path).stderr
    assert cli('data', tmp_path / 'nowhere').returncode == 1


def test_export_leaves_one_file_and_prints_the_difference(cli, model_folder, tmp_path):
    done = cli('export', model_folder, '--out', tmp_path / 'model.pt', '--dynamic')
    assert done.returncode == 0, done.stderr
    assert 'torchscript' in done.stdout
    assert 'largest difference of a logit' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['model.pt']
    assert 'Give --format' in cli('export', model_folder, '--out', tmp_path / 'model.xyz').stderr


def test_explain_draws_and_prints(cli, model_folder, images, tmp_path):
    pytest.importorskip('matplotlib')
    out = tmp_path / 'why.png'
    done = cli('explain', model_folder, images / 'a.png', '--out', out, '--label', 'dog', '--position', 3, 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('dog ')
    assert out.read_bytes().startswith(b'\x89PNG')
    wrong = cli('explain', model_folder, images / 'a.png', '--out', out, '--label', 'cat')
    assert wrong.returncode == 1
    assert wrong.stderr.startswith('error: ')
    assert 'wanted the name of a PNG file' in cli('explain', model_folder, images / 'a.png', '--out', 'why.txt').stderr
