"""Several processes on CPUs (gloo) against one: the same metrics, the same training, one voice, no hang."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from timm_convattn.predictions import Predictions

LAUNCH = [sys.executable, '-m', 'accelerate.commands.launch', '--num_machines', '1', '--mixed_precision', 'no']
LAUNCH += ['--dynamo_backend', 'no']
# nothing else is said on a machine without GPUs
TWO = [*LAUNCH, '--multi_gpu', '--num_processes', '2', '--main_process_port', '0']
ONE = [*LAUNCH, '--cpu', '--num_processes', '1']


def start(launch, root, script, *args):
    command = [*launch, str(root / 'train_scripts' / script), *map(str, args), '--threads', '1']
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope='module')
def two(root, tiny_crops, tmp_path_factory):
    """A run of two processes on a network with batch norms, averaged; and what it said."""
    folder = tmp_path_factory.mktemp('two') / 'run'
    options = ['--model', 'convattn', '--model-args', 'backbone=resnet10t', '--data', tiny_crops, '--img-size', 32]
    options += ['--batch-size', 4, '--epochs', 4, '--ema', '--ema-decay', 0.5, '--hold-out', 0.1, '--output', folder]
    return folder, finish(start(TWO, root, 'finetune.py', *options))


def test_every_line_is_said_once_and_the_last_epoch_scores_what_the_saved_model_scores(two):
    folder, said = two
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == len(set(lines)), said
    assert sum(line.startswith('epoch ') for line in lines) == 4
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    results = json.loads((folder / 'results.json').read_text())
    assert results['environment']['hardware']['processes'] == 2
    assert log[-1]['validation_loss'] == pytest.approx(results['metrics']['loss'], rel=1e-5)
    assert log[-1]['accuracy'] == results['metrics']['accuracy']


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize('batch_size', [2, 128])
def test_two_processes_evaluate_every_crop_once_in_its_order(two, root, tmp_path, batch_size):
    folder, _ = two  # 11 crops: neither batch size shares them evenly
    outs = [tmp_path / f'{number}.json' for number in (1, 2)]
    options = ['--model', f'local-dir:{folder / "model"}', '--data', data_of(folder), '--batch-size', batch_size]
    for process in [
        start(launch, root, 'validate.py', *options, '--out', out) for launch, out in zip((ONE, TWO), outs, strict=True)
    ]:
        finish(process)
    one, both = (json.loads(out.read_text())['metrics'] for out in outs)
    assert one.pop('loss') == pytest.approx(both.pop('loss'), rel=1e-5)
    assert one == both
    assert both['num_samples'] == 11


def data_of(folder: Path) -> str:
    return json.loads((folder / 'results.json').read_text())['training']['config']['data']


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes_train_as_one_does_on_the_same_batches(root, tiny_crops, tmp_path):
    # a network without batch norms, whose batches are all that the processes share
    options = ['--model', 'vit_tiny_patch16_224', '--model-args', 'patch_size=8', 'depth=2', '--data', tiny_crops]
    options += ['--img-size', 32, '--epochs', 17, '--optimizer', 'momentum', '--lr', 0.01, '--clip-grad', 1, '--ema']
    runs = {
        1: start(ONE, root, 'finetune.py', *options, '--batch-size', 8, '--output', tmp_path / '1'),
        2: start(TWO, root, 'finetune.py', *options, '--batch-size', 4, '--output', tmp_path / '2'),
    }
    for process in runs.values():
        finish(process)
    logs = [[json.loads(line) for line in (tmp_path / str(n) / 'log.jsonl').read_text().splitlines()] for n in runs]
    assert logs[0][-1]['step'] == logs[1][-1]['step'] == 51
    for key in ('train_loss', 'validation_loss', 'learning_rate'):
        ours, theirs = (torch.tensor([entry[key] for entry in log]) for log in logs)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    logits = [Predictions.load(tmp_path / str(n) / 'validation.safetensors').logits for n in runs]
    torch.testing.assert_close(*map(torch.from_numpy, logits), rtol=1e-3, atol=1e-4)
    weights = [load_file(tmp_path / str(n) / 'model' / 'model.safetensors') for n in runs]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='processes are found in /proc')
def test_a_process_that_dies_ends_the_run_and_its_checkpoints_go_on(root, tiny_crops, tmp_path):
    run = tmp_path / 'run'
    options = ['--model', 'resnet10t', '--data', tiny_crops, '--img-size', 32, '--batch-size', 4, '--epochs', 200]
    process = start(TWO, root, 'finetune.py', *options, '--output', run)
    deadline = time.monotonic() + 120
    while not list(run.glob('checkpoints/epoch_*')):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = next(pid for pid in children(process.pid) if environment(pid).get('RANK') == '1')
    os.kill(second, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert 'Signal 9 (SIGKILL)' in err + out
    assert not (run / 'results.json').exists()

    alone = start(ONE, root, 'finetune.py', '--resume', run)
    _, err = alone.communicate(timeout=120)
    assert alone.returncode == 1
    assert 'error: The run was made by 2 process(es), this is 1' in err
    epochs = len((run / 'log.jsonl').read_text().splitlines())
    finish(start(TWO, root, 'finetune.py', '--resume', run, '--epochs', epochs + 1))
    assert (run / 'results.json').exists()


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found = []
    for path in Path('/proc').glob(f'{pid}/task/*/children'):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f'/proc/{pid}/environ').read_bytes().decode().split('\0')
    return dict(pair.split('=', 1) for pair in pairs if '=' in pair)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ('launch', 'args', 'message'),
    [
        ([*LAUNCH, '--cpu', '--num_processes', '2'], [], 'this is one. Without MPI, give --multi_gpu instead of --cpu'),
        (TWO, ['--sync-batchnorm'], 'torch synchronises batch norms on GPUs alone'),
    ],
)
def test_what_several_processes_cannot_do_is_refused(root, tiny_crops, tmp_path, launch, args, message):
    process = start(launch, root, 'finetune.py', '--data', tiny_crops, '--output', tmp_path / 'run', *args)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'error: ' in err and message in err
    assert not (tmp_path / 'run').exists()


CONFIGURATIONS = Path(__file__).parents[2] / 'train_scripts' / 'accelerate'


@pytest.mark.parametrize('path', sorted(CONFIGURATIONS.glob('*.yaml')), ids=lambda path: path.stem)
def test_configurations_of_accelerate_are_taken_by_its_launcher(path):
    wanted = {  # processes, machines, precision, on several GPUs, sharded
        'bf16': (1, 1, 'bf16', False, False),
        'eight_gpus': (8, 1, 'bf16', True, False),
        'fsdp': (8, 1, 'bf16', False, True),
        'one_gpu': (1, 1, 'no', False, False),
        'two_nodes': (16, 2, 'bf16', True, False),
    }
    given = launch_command_parser().parse_args(['--config_file', str(path), 'finetune.py'])
    args, _, _ = _validate_launch_command(given)
    found = (args.num_processes, args.num_machines, args.mixed_precision, args.multi_gpu, args.use_fsdp)
    assert found == wanted[path.stem]


TINY = ['--model', 'convattn', '--model-args', 'backbone=resnet10t', '--img-size', 32, '--batch-size', 4]


@pytest.mark.slow
@pytest.mark.alone
def test_fsdp_trains_saves_whole_weights_and_resumes(root, tiny_crops, tmp_path):
    launch = [*LAUNCH[:3], '--config_file', CONFIGURATIONS / 'fsdp.yaml', '--num_processes', '2']
    launch = [*map(str, launch), '--mixed_precision', 'no', '--main_process_port', '0']

    def train(*args):
        command = [*launch, str(Path(__file__).parent / 'fsdp_on_cpu.py'), *map(str, args), '--threads', '1']
        return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    # without batch norms, which make much of the last bits of a map of one position
    options = ['--model', 'vit_tiny_patch16_224', '--model-args', 'patch_size=8', 'depth=2', '--img-size', 32]
    options += ['--data', tiny_crops, '--batch-size', 4, '--optimizer', 'momentum', '--schedule', 'constant']
    sharded, plain = tmp_path / 'sharded', tmp_path / 'plain'
    finish(train(*options, '--epochs', 2, '--output', sharded))
    finish(train('--resume', sharded, '--epochs', 3))
    finish(start(TWO, root, 'finetune.py', *options, '--epochs', 3, '--output', plain))
    weights = [load_file(run / 'model' / 'model.safetensors') for run in (sharded, plain)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
    refused = train(*options, '--ema', '--output', tmp_path / 'averaged')
    assert 'error: No process has all weights to average where FSDP shares them out' in refused.communicate()[1]


FAKE_SLURM = """#!/bin/bash
# srun of two nodes that are this machine
while [[ "$1" == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""


@pytest.mark.slow
@pytest.mark.alone
def test_slurm_script_starts_a_run_of_two_nodes_and_goes_on_with_it(root, tiny_crops, tmp_path):
    tools = {'srun': FAKE_SLURM, 'scontrol': '#!/bin/bash\necho 127.0.0.1\necho 127.0.0.2\n'}
    for name, text in tools.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ['PATH']])
    slurm = {'SLURM_NNODES': '2', 'SLURM_GPUS_ON_NODE': '1', 'SLURM_JOB_NODELIST': 'node[1-2]'}
    run = tmp_path / 'run'
    for epochs in (1, 2):
        options = [*TINY, '--data', tiny_crops, '--threads', 1, '--output', run, '--epochs', 1]
        command = ['bash', CONFIGURATIONS / 'slurm.sh', *options]
        if epochs == 2:  # the run is whole: the same command finds that out, and evaluates once more
            (run / 'results.json').unlink()
        finished = subprocess.run(
            [*map(str, command)],
            cwd=root,
            env={**os.environ, **slurm, 'PATH': path, 'ACCELERATE_MIXED_PRECISION': 'no'},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr
        assert ('going on from' in finished.stdout) == (epochs == 2)
        assert json.loads((run / 'results.json').read_text())['environment']['hardware']['processes'] == 2
