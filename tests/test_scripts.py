"""The scripts as a person starts them: real processes, the embedded scenes, real signals."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from made_once import trained_run
from script_runner import run_script

LAUNCH = [sys.executable, '-m', 'accelerate.commands.launch']


def run(root, *command, **kwargs):
    return subprocess.run(
        [*map(str, command)], cwd=root, capture_output=True, text=True, check=False, timeout=600, **kwargs
    )


@pytest.fixture(scope='module')
def short_run(root, tmp_path_factory):
    """The quickstart, cut to a few steps: one process, the embedded scenes."""
    folder = tmp_path_factory.mktemp('runs') / 'short'
    command = [*LAUNCH, 'train_scripts/finetune.py', '--output', folder, '--epochs', 1, '--limit-train', 256]
    finished = run(root, *command, '--threads', 1)
    assert finished.returncode == 0, finished.stderr
    return folder, finished


def test_quickstart_runs_under_accelerate_and_prints_a_line_per_epoch(short_run):
    folder, finished = short_run
    lines = [line for line in finished.stdout.splitlines() if line.startswith('epoch ')]
    assert len(lines) == 1
    assert lines[0].startswith('epoch 1/1  train loss ')
    assert f'run folder: {folder}' in finished.stdout
    results = json.loads((folder / 'results.json').read_text())
    assert results['data']['source'] == 'embedded thermal scenes'
    assert results['metrics']['absent_classes'] == []


def test_validate_repeats_the_evaluation_of_a_run_exactly(root, short_run, tmp_path):
    folder, _ = short_run
    out, matrix = tmp_path / 'results.json', tmp_path / 'matrix.png'
    command = [sys.executable, 'train_scripts/validate.py', '--model', f'local-dir:{folder / "model"}', '--out', out]
    finished = run(root, *command, '--confusion-matrix', matrix, '--threads', 1)
    assert finished.returncode == 0, finished.stderr
    ours, theirs = json.loads(out.read_text()), json.loads((folder / 'results.json').read_text())
    assert ours['metrics'] == theirs['metrics']
    assert ours['model'] == theirs['model']
    assert ours['data'] == theirs['data']
    assert matrix.stat().st_size > 0


def test_validate_refuses_crops_of_other_classes(root, short_run, flir_writer, tmp_path):
    from timm_convattn.data.crops import build_crops

    writer = flir_writer()
    for split in ('train', 'val'):
        writer.split(split, [[('person', [1, 1, 20, 20]), ('car', [1, 1, 20, 20])]])
    build_crops(writer.folder, tmp_path / 'crops', classes='two_class')
    model = f'local-dir:{short_run[0] / "model"}'
    finished = run_script(root / 'train_scripts' / 'validate.py', '--model', model, '--data', tmp_path / 'crops')
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith('error: The model has 4 classes (person, vehicle, bicycle, dog)')
    assert 'Traceback' not in finished.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(root, short_run, tmp_path):
    command = ['train_scripts/finetune.py', '--output', tmp_path / 'run', '--epochs', 50, '--limit-train', 128]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), '--threads', '1'],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / 'run' / 'log.jsonl').exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f'--resume {tmp_path / "run"}' in stderr
    assert 'Traceback' not in stderr
    assert list((tmp_path / 'run' / 'checkpoints').iterdir())


def test_help_is_grouped_and_names_every_option(root, monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    finished = run_script(root / 'train_scripts' / 'finetune.py', '--help')
    assert finished.returncode == 0
    for group in ('data options', 'model options', 'train options', 'run options'):
        assert group in finished.stdout
    for flag in ('--data', '--init-from', '--gradient-accumulation', '--resume', '--tracker', '--compile', '--ema'):
        assert flag in finished.stdout


@pytest.mark.parametrize('name', ['finetune', 'reproduce', 'validate', 'publish', 'build_dataset', 'benchmark'])
def test_help_shows_each_example_command_on_its_own_line(root, monkeypatch, name):
    monkeypatch.setenv('COLUMNS', '100')
    script = root / 'train_scripts' / f'{name}.py'
    examples = re.findall(r'^    (?:python|accelerate) .*', script.read_text().split('"""')[1], re.MULTILINE)
    assert examples
    assert set(examples) <= set(run_script(script, '--help').stdout.splitlines())


@pytest.mark.slow
@pytest.mark.alone
def test_quickstart_passes_090_macro_f1_and_hardly_waits_for_crops():
    quickstart = trained_run()
    assert json.loads((quickstart / 'results.json').read_text())['metrics']['macro_f1'] >= 0.90
    last = json.loads((quickstart / 'log.jsonl').read_text().splitlines()[-1])
    assert last['waited_for_crops'] < 0.02 * last['seconds']
