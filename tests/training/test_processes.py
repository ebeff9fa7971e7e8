"""Several processes on CPUs (gloo) train and evaluate as one does, print once and never hang."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from made_once import made_once
from PIL import Image
from safetensors.torch import load_file
from script_runner import run_script
from test_hostile_files import crops_with
from test_survival import assert_same_state

from timm_convattn.data.samplers import EpochSampler
from timm_convattn.predictions import Predictions

LAUNCH = [sys.executable, '-m', 'accelerate.commands.launch', '--num_machines', '1', '--mixed_precision', 'no']
LAUNCH += ['--dynamo_backend', 'no']
# all options that a machine without GPUs needs
TWO = [*LAUNCH, '--multi_gpu', '--num_processes', '2', '--main_process_port', '0']
ONE = [*LAUNCH, '--cpu', '--num_processes', '1']
LAUNCHES = {'one': ONE, 'two': TWO}


def start(launch, root, script, *args, **variables):
    command = [*launch, str(root / 'train_scripts' / script), *map(str, args), '--threads', '1']
    pipe, environment = subprocess.PIPE, {**os.environ, **variables}
    return subprocess.Popen(command, cwd=root, stdout=pipe, stderr=pipe, text=True, env=environment)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def run_alone(root, script, *args):
    """Run a script in a single process."""
    finished = run_script(root / 'train_scripts' / script, *args, '--threads', '1')
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope='module')
def two(root, tiny_crops):
    """A run of two processes with batch norms and EMA, and its output; WRITTEN.RANK lists the files of each process."""
    watched = Path(__file__).parent / 'watched_finetune.py'
    options = ['--model', 'convattn', '--model-args', 'backbone=resnet10t', '--data', tiny_crops, '--img-size', 32]
    options += ['--batch-size', 4, '--epochs', 4, '--ema', '--ema-decay', 0.5, '--hold-out', 0.1, '--output']

    def train(folder):
        process = start(TWO, root, watched, *options, folder / 'run', WRITTEN=str(folder / 'written'))
        (folder / 'said.txt').write_text(finish(process))

    folder = made_once('two_processes', train)
    return folder / 'run', (folder / 'said.txt').read_text()


def test_lines_are_printed_once_and_the_last_epoch_scores_as_the_results(two):
    folder, said = two
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == len(set(lines)), said
    assert sum(line.startswith('epoch ') for line in lines) == 4
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    results = json.loads((folder / 'results.json').read_text())
    assert results['environment']['hardware']['processes'] == 2
    assert log[-1]['validation_loss'] == pytest.approx(results['metrics']['loss'], rel=1e-5)
    assert log[-1]['accuracy'] == results['metrics']['accuracy']


def test_the_other_process_writes_only_its_random_states(two):
    folder, _ = two
    main, other = (
        {
            Path(line).name
            for line in Path(f'{folder.parent}/written.{rank}').read_text().splitlines()
            if str(folder) in line
        }
        for rank in (0, 1)
    )
    assert other == {'random_states_1.pkl'}
    assert main >= {path.name for path in folder.iterdir()} - {'checkpoints'}
    assert main >= {
        'model.safetensors',
        'averaged.safetensors',
        'optimizer.bin',
        'random_states_0.pkl',
        'progress.json',
    }


@pytest.mark.slow
@pytest.mark.parametrize('batch_size', [2, 128])
def test_two_processes_evaluate_every_crop_once_in_its_order(two, root, tmp_path, batch_size):
    folder, _ = two  # 11 crops: neither batch size divides them evenly
    outs = [tmp_path / f'{number}.json' for number in (1, 2)]
    options = ['--model', f'local-dir:{folder / "model"}', '--data', data_of(folder), '--batch-size', batch_size]
    run_alone(root, 'validate.py', *options, '--out', outs[0])
    finish(start(TWO, root, 'validate.py', *options, '--out', outs[1]))
    one, both = (json.loads(out.read_text())['metrics'] for out in outs)
    assert one.pop('loss') == pytest.approx(both.pop('loss'), rel=1e-5)
    assert one == both
    assert both['num_samples'] == 11


def data_of(folder: Path) -> str:
    return json.loads((folder / 'results.json').read_text())['training']['config']['data']


# without batch norms, results depend on the batches alone, and rounding errors stay small
VIT = ['--model', 'vit_tiny_patch16_224', '--model-args', 'patch_size=8', 'depth=2', '--img-size', 32]
VIT += ['--epochs', 17, '--optimizer', 'momentum', '--lr', 0.01, '--clip-grad', 1]


@pytest.fixture(scope='module')
def vit_of_two(root, tiny_crops, tmp_path_factory):
    """A run of two processes with that network and EMA."""
    folder = tmp_path_factory.mktemp('vit') / 'run'
    options = [*VIT, '--data', tiny_crops, '--batch-size', 4, '--ema', '--output', folder]
    finish(start(TWO, root, 'finetune.py', *options))
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_same_batches(root, vit_of_two, tmp_path):
    runs = tmp_path / 'one', vit_of_two
    options = [*VIT, '--data', data_of(vit_of_two), '--batch-size', 8, '--ema']
    run_alone(root, 'finetune.py', *options, '--output', runs[0])
    logs = [[json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()] for run in runs]
    assert logs[0][-1]['step'] == logs[1][-1]['step'] == 51
    for key in ('train_loss', 'validation_loss', 'learning_rate'):
        ours, theirs = (torch.tensor([entry[key] for entry in log]) for log in logs)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    logits = [Predictions.load(run / 'validation.safetensors').logits for run in runs]
    torch.testing.assert_close(*map(torch.from_numpy, logits), rtol=1e-3, atol=1e-4)
    assert_near(*(load_file(run / 'model' / 'model.safetensors') for run in runs))


def assert_near(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='processes are found in /proc')
def test_dead_process_ends_the_run_which_resumes_from_its_checkpoints(root, tiny_crops, tmp_path):
    run = tmp_path / 'run'
    options = ['--model', 'test_resnet', '--data', tiny_crops, '--img-size', 32, '--batch-size', 4, '--epochs', 200]
    process = start(TWO, root, 'finetune.py', *options, '--output', run)
    wait_for_file(run, 'checkpoints/epoch_*', process)
    second = next(pid for pid in children(process.pid) if environment(pid).get('RANK') == '1')
    os.kill(second, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert 'Signal 9 (SIGKILL)' in err + out
    assert not (run / 'results.json').exists()

    alone = run_script(root / 'train_scripts' / 'finetune.py', '--resume', run)
    assert alone.returncode == 1
    assert 'error: The run has 2 process(es), this call has 1' in alone.stderr
    epochs = len((run / 'log.jsonl').read_text().splitlines())
    finish(start(TWO, root, 'finetune.py', '--resume', run, '--epochs', epochs + 1))
    assert (run / 'results.json').exists()


@pytest.mark.slow
def test_error_in_one_process_ends_the_run_with_its_message(root, tmp_path):
    good = io.BytesIO()
    Image.new('L', (9, 9)).save(good, 'PNG')
    images, order = [good.getvalue()] * 16, list(EpochSampler(16, seed=0))
    broken = order[5]  # the second process has the second batch
    images[broken] = images[broken][:20]
    options = ['--data', crops_with(tmp_path, images, [0, 1] * 8), '--plain-input', '--batch-size', 4, '--img-size', 32]
    options += ['--model', 'test_resnet', '--epochs', 9, '--output', tmp_path / 'run']
    process = start(TWO, root, 'finetune.py', *options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert [line for line in err.splitlines() if line.startswith(f'error: Crop {broken} of the data set cannot be')]
    assert 'epoch 1/9' not in out
    assert not (tmp_path / 'run' / 'results.json').exists()


# long enough to be stopped, with no checkpoint but that of the signal
LONG = ['--model', 'test_resnet', '--img-size', 32, '--batch-size', 2, '--epochs', 25, '--ema', '--keep', 1]
LONG += ['--checkpoint-every', 1000, '--evaluate-every', 1000]
LONG += ['--seed', 4]  # with this seed, averaging the sums of both processes in between would change the result


def whole_run(root, tiny_crops, launched):
    """Return the uninterrupted run, launched in the same way."""

    def train(folder):
        options = [*LONG, '--data', tiny_crops, '--output', folder / 'run']
        finish(start(LAUNCHES[launched], root, 'finetune.py', *options))

    return made_once(f'whole_run_of_{launched}', train) / 'run'


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='processes are found in /proc')
@pytest.mark.parametrize(('launched', 'status'), [('one', -signal.SIGTERM), ('two', 1)], ids=['one', 'two'])
def test_sigterm_to_the_launcher_stops_all_and_the_resumed_run_is_equal(root, tiny_crops, tmp_path, launched, status):
    run, launch = tmp_path / 'run', LAUNCHES[launched]
    process = start(launch, root, 'finetune.py', *LONG, '--data', tiny_crops, '--output', run)
    wait_for_file(run, 'log.jsonl', process)
    training = children(process.pid)
    process.terminate()
    _, err = process.communicate(timeout=300)  # until all its processes have ended
    assert process.returncode == status
    assert f'Resume with: accelerate launch train_scripts/finetune.py --resume {run}' in err
    assert training and not any(is_running(pid) for pid in training)
    (checkpoint,) = (run / 'checkpoints').iterdir()
    assert checkpoint.name.startswith('epoch_') and not (run / 'results.json').exists()
    finish(start(launch, root, 'finetune.py', '--resume', run))
    assert_same_state(run, whole_run(root, tiny_crops, launched))


@pytest.mark.slow
def test_signal_to_one_process_stops_both_and_the_resumed_run_is_equal(root, tiny_crops, tmp_path):
    run, stopped = tmp_path / 'run', Path(__file__).with_name('stopped_finetune.py')
    process = start(TWO, root, stopped, *LONG, '--data', tiny_crops, '--output', run, STOP_AT='11')
    _, err = process.communicate(timeout=300)
    assert 'Stopped after 1 epochs and 12 steps' in err  # of 7 an epoch
    finish(start(TWO, root, 'finetune.py', '--resume', run))
    assert_same_state(run, whole_run(root, tiny_crops, 'two'))


def wait_for_file(run: Path, pattern: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not list(run.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found = []
    for path in Path('/proc').glob(f'{pid}/task/*/children'):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f'/proc/{pid}/environ').read_bytes().decode().split('\0')
    return dict(pair.split('=', 1) for pair in pairs if '=' in pair)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('launch', 'args', 'message'),
    [
        ([*LAUNCH, '--cpu', '--num_processes', '2'], [], 'started one process: it starts several only with MPI'),
        (TWO, ['--sync-batchnorm'], 'torch synchronizes batch norms on GPUs only'),
    ],
)
def test_options_that_several_processes_cannot_use_are_refused(root, tiny_crops, tmp_path, launch, args, message):
    process = start(launch, root, 'finetune.py', '--data', tiny_crops, '--output', tmp_path / 'run', *args)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert 'error: ' in err and message in err
    assert not (tmp_path / 'run').exists()


CONFIGURATIONS = Path(__file__).parents[2] / 'train_scripts' / 'accelerate'


@pytest.mark.parametrize('path', sorted(CONFIGURATIONS.glob('*.yaml')), ids=lambda path: path.stem)
def test_accelerate_accepts_the_shipped_configurations(path):
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


TINY = ['--model', 'convattn', '--model-args', 'backbone=test_resnet', '--img-size', 32, '--batch-size', 4]


@pytest.mark.slow
def test_fsdp_trains_saves_all_weights_and_resumes(root, tiny_crops, vit_of_two, tmp_path):
    launch = [*LAUNCH[:3], '--config_file', CONFIGURATIONS / 'fsdp.yaml', '--num_processes', '2']
    launch = [*map(str, launch), '--mixed_precision', 'no', '--main_process_port', '0']

    def train(*args):
        command = [*launch, str(Path(__file__).parent / 'fsdp_on_cpu.py'), *map(str, args), '--threads', '1']
        return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    options, run, last = [*VIT, '--data', tiny_crops, '--batch-size', 4], tmp_path / 'run', 'epoch_0017_batch_000000'
    finish(train(*options, '--output', run))
    shutil.rmtree(run / 'checkpoints' / last)
    (run / 'results.json').unlink()
    finish(train('--resume', run))
    plain = load_file(vit_of_two / 'checkpoints' / last / 'model.safetensors')  # not averaged
    assert_near(load_file(run / 'model' / 'model.safetensors'), plain)
    refused = train(*options, '--ema', '--output', tmp_path / 'averaged')
    assert 'error: With FSDP no process has all weights, so they cannot be averaged' in refused.communicate()[1]


FAKE_SLURM = """#!/bin/bash
# srun with two nodes, both this machine
while [[ "$1" == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""


@pytest.mark.slow
def test_slurm_script_starts_and_resumes_a_run_of_two_nodes(root, tiny_crops, tmp_path):
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
        if epochs == 2:  # the run is complete: the same command only evaluates
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
        assert ('resuming from' in finished.stdout) == (epochs == 2)
        assert json.loads((run / 'results.json').read_text())['environment']['hardware']['processes'] == 2
