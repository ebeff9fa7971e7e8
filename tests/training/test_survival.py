"""Runs that are killed, stopped or run out of disk space resume to the same end as uninterrupted ones."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.utils import load
from safetensors.torch import load_file
from script_runner import run_script, start_script

from timm_convattn.config import parse_config
from timm_convattn.errors import InputError
from timm_convattn.training.checkpoints import Progress, find_checkpoints
from timm_convattn.training.finetune import finetune
from timm_convattn.training.run_folder import parse_run

NOT_COMPARED = {'seconds', 'waited_for_crops', 'waited', 'date', 'command', 'output', 'resume'}


def comparable(value):
    """Remove what differs between two runs of one command."""
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items() if key not in NOT_COMPARED}
    return [comparable(entry) for entry in value] if isinstance(value, list) else value


def state(run: Path):
    """Everything that a finished run writes: log, results, weights, and the hashes of all files of its checkpoints."""
    weights = load_file(run / 'model' / 'model.safetensors')
    checkpoints = {p.parent.name: json.loads(p.read_text()) for p in run.glob('checkpoints/epoch_*/progress.json')}
    return {
        'log': [comparable(json.loads(line)) for line in (run / 'log.jsonl').read_text().splitlines()],
        'results': comparable(json.loads((run / 'results.json').read_text())),
        'weights': {key: value.numpy().tobytes() for key, value in weights.items()},
        'checkpoints': {
            name: (comparable(content['progress']), content['sha256']) for name, content in checkpoints.items()
        },
        'logits': (run / 'validation.safetensors').read_bytes(),
        'files': sorted(path.name for path in run.iterdir()),
    }


def assert_same_state(run: Path, other: Path) -> None:
    ours, theirs = state(run), state(other)
    for part in theirs:
        assert ours[part] == theirs[part], part


def resume(run: Path, *args: str) -> Path:
    args = ['--resume', str(run), *args]
    return finetune(parse_run(args))


def rehash(checkpoint: Path) -> None:
    """Update the hashes of a checkpoint, as an attacker who can write its files could."""
    content = json.loads((checkpoint / 'progress.json').read_text())
    del content['own_sha256']
    content['sha256'] = {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in content['sha256']
    }
    content['own_sha256'] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (checkpoint / 'progress.json').write_text(json.dumps(content))


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.is_alive(), 'the run ended before it was killed'
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_run_killed_twenty_times_ends_as_an_uninterrupted_one(root, tiny_crops, tmp_path):
    script, rng = root / 'train_scripts' / 'finetune.py', random.Random(0)
    args = ['--model', 'convattn', '--model-args', 'backbone=test_resnet', 'attn_drop=0.2', '--drop-rate', 0.3]
    args += ['--data', tiny_crops, '--img-size', 32, '--batch-size', 4, '--ema']
    args += ['--epochs', 26, '--gradient-accumulation', 2, '--warmup-epochs', 2, '--clip-grad', 1, '--threads', 1]
    whole, parts, said = tmp_path / 'whole', tmp_path / 'parts', tmp_path / 'said.txt'
    process = start_script(script, *args, '--output', whole, output=said)
    process.join()
    assert process.exitcode == 0, said.read_text()

    def epochs():
        return len((parts / 'log.jsonl').read_text().splitlines()) if (parts / 'log.jsonl').exists() else 0

    within_a_write = 0
    for kill in range(20):
        begun = (parts / 'config.yaml').exists()
        given = ['--resume', 'latest', '--output', parts] if begun else [*args, '--output', parts]
        before = set(parts.glob('checkpoints/.epoch_*'))
        process = start_script(script, *given, output=said)
        if kill % 2:
            wait_for(lambda seen=before: set(parts.glob('checkpoints/.epoch_*')) - seen, process)
            time.sleep(rng.uniform(0, 0.02))
        else:
            wait_for(lambda wanted=kill: epochs() >= wanted, process)
            time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        within_a_write += bool(list(parts.glob('checkpoints/.epoch_*')))
    assert within_a_write >= 3
    process = start_script(script, '--resume', 'latest', '--output', parts, output=said)
    process.join()
    assert process.exitcode == 0, said.read_text()[-2000:]
    assert_same_state(parts, whole)
    assert len(state(whole)['log']) == 26


def test_preempted_run_exits_with_the_code_of_its_signal_and_resumes(root, tiny_crops, tmp_path):
    script, said, run = root / 'train_scripts' / 'finetune.py', tmp_path / 'said.txt', tmp_path / 'run'
    options = ['--model', 'test_resnet', '--data', tiny_crops, '--img-size', 32, '--batch-size', 4]
    options += ['--ema', '--keep', 1, '--schedule', 'constant', '--threads', 1]
    process = start_script(script, *options, '--epochs', 300, '--output', run, output=said)
    wait_for((run / 'log.jsonl').exists, process)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert f'Resume with: accelerate launch train_scripts/finetune.py --resume {run}' in said.read_text()
    epochs = len((run / 'log.jsonl').read_text().splitlines())
    resume(run, '--epochs', str(epochs + 1))
    run_script(script, *options, '--epochs', epochs + 1, '--output', tmp_path / 'whole')
    assert len(state(tmp_path / 'whole')['log']) == epochs + 1
    assert_same_state(run, tmp_path / 'whole')


@pytest.fixture(scope='module')
def three_epochs(tiny_crops, tmp_path_factory):
    """A finished run with its last two checkpoints."""
    folder = tmp_path_factory.mktemp('survival') / 'run'
    args = ['--model', 'resnet10t', '--data', str(tiny_crops), '--img-size', '32', '--batch-size', '8', '--ema']
    return finetune(parse_config([*args, '--epochs', '3', '--threads', '1', '--output', str(folder)]))


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == 'missing':
        path.unlink()
    elif how == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize('how', ['missing', 'truncated', 'flipped'])
@pytest.mark.parametrize(
    'name', ['model.safetensors', 'optimizer.bin', 'averaged.safetensors', 'random_states_0.pkl', 'progress.json']
)
def test_damaged_checkpoint_makes_a_run_resume_from_the_one_before(three_epochs, tmp_path, capfd, name, how):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    newest, before = (run / 'checkpoints' / f'epoch_000{epoch}_batch_000000' for epoch in (3, 2))
    damaged(newest / name, how)
    if (name, how) == ('progress.json', 'missing'):  # not a checkpoint
        resume(run)
    else:
        resume(run)
        assert f'warning: the checkpoint {newest} is damaged' in capfd.readouterr().err
        assert (run / 'checkpoints' / f'damaged_{newest.name}').is_dir()
    assert before.is_dir()
    assert_same_state(run, three_epochs)


def test_resumed_finished_run_only_repeats_its_evaluation(three_epochs, tmp_path, capsys):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    resume(run)
    assert 'all epochs are done, only the evaluation is repeated; --epochs N trains longer' in capsys.readouterr().out
    assert_same_state(run, three_epochs)


def test_run_without_an_intact_checkpoint_is_refused_and_not_changed(three_epochs, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    for path in run.glob('checkpoints/*/optimizer.bin'):
        damaged(path, 'flipped')
    results = (run / 'results.json').read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match=r'All checkpoints in .* are damaged: .*Remove that folder to start again'):
            resume(run)
    assert (run / 'results.json').read_bytes() == results


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), 'w'))


@pytest.mark.parametrize('how', ['no pickle', 'a bomb', 'a state is missing', 'no state'])
def test_invalid_random_states_make_a_run_resume_from_the_one_before(three_epochs, tmp_path, capfd, how):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    newest = run / 'checkpoints' / 'epoch_0003_batch_000000'
    path, mark = newest / 'random_states_0.pkl', tmp_path / 'mark'
    states = load(path)
    if how == 'no pickle':
        path.write_bytes(b'what is this')
    elif how == 'a bomb':
        torch.save(states | {'random_state': Bomb(mark)}, path)
    elif how == 'a state is missing':
        torch.save({key: value for key, value in states.items() if key != 'random_state'}, path)
    else:
        torch.save(states | {'torch_manual_seed': torch.zeros(7, dtype=torch.uint8)}, path)
    rehash(newest)  # a faulty disk, or an attacker
    resume(run)
    assert f'warning: the checkpoint {newest} is damaged' in capfd.readouterr().err
    assert_same_state(run, three_epochs)
    assert not mark.exists()


def test_checkpoints_are_sorted_by_the_number_of_their_epoch(tmp_path):
    wanted = [
        Progress(epoch=epoch, batch=batch).name for epoch, batch in [(9, 0), (9_999, 7), (10_000, 0), (10_000, 3)]
    ]
    for name in reversed(wanted):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'progress.json').write_text('{}')
    assert [path.name for path in find_checkpoints(tmp_path)] == wanted


def test_checkpoint_is_synced_before_an_older_one_is_removed(tiny_config, monkeypatch):
    done = []

    def noted(owner, name):
        original = getattr(owner, name)

        def call(first, *args, **kwargs):
            path = str(Path(f'/proc/self/fd/{first}').readlink()) if isinstance(first, int) else str(first)
            done.append((name, path.partition('/checkpoints')[2], path.endswith('/checkpoints')))
            return original(first, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    noted(os, 'fsync')
    noted(os, 'rename')
    noted(shutil, 'rmtree')
    run = finetune(tiny_config('--model', 'test_resnet', '--keep', '1', '--epochs', '2'))
    files = {f'/.epoch_0002_batch_000000/{path.name}' for path in run.glob('checkpoints/epoch_0002*/*')}
    renamed = done.index(('rename', '/.epoch_0002_batch_000000', False))
    assert len(files) >= 4
    assert {path for name, path, _ in done[:renamed] if name == 'fsync'} >= {*files, '/.epoch_0002_batch_000000'}
    after = done[renamed:]
    assert after.index(('fsync', '', True)) < after.index(('rmtree', '/epoch_0001_batch_000000', False))


def test_incomplete_last_line_of_the_log_is_replaced(three_epochs, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    shutil.rmtree(run / 'checkpoints' / 'epoch_0003_batch_000000')
    lines = (run / 'log.jsonl').read_text().splitlines()
    (run / 'log.jsonl').write_text('\n'.join([*lines[:2], lines[2][:40]]))
    resume(run)
    assert state(run)['log'] == state(three_epochs)['log']


def run_with_a_disk(inside: str, root: Path, disk: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script that can mount a disk at a path; it exits with 77 if it cannot."""
    if shutil.which('unshare') is None:
        pytest.skip('there is no unshare to mount a small disk with')
    disk.mkdir()
    command = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', inside]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=300)
    if finished.returncode == 77 or 'unshare' in finished.stderr:
        pytest.skip(f'no disk can be mounted here: {finished.stderr}')
    return finished


@pytest.mark.slow
def test_full_cache_is_explained_and_does_not_kill_the_process(root, tiny_crops, tmp_path):
    disk = tmp_path / 'disk'
    # the crops take 7 MB; mapping a file of that size succeeds, and writing to it fails
    inside = f'''
        mount -t tmpfs -o size=1m tmpfs "{disk}" || exit 77
        XDG_CACHE_HOME="{disk}" "{sys.executable}" train_scripts/finetune.py --model test_resnet --img-size 512 \\
            --data "{tiny_crops}" --output "{tmp_path}/run"
        echo "status $?"
        find "{disk}/timm_convattn" -type f
    '''
    finished = run_with_a_disk(inside, root, disk)
    assert finished.stdout == 'status 1\n', finished.stderr
    assert finished.stderr.startswith(f'error: {disk}/timm_convattn/stores could not be written')
    assert 'name another cache with XDG_CACHE_HOME' in finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ('epochs', 'size', 'refused', 'last'),
    [
        # a checkpoint of this network takes 40 MB: the disk holds one, not two
        (4, '64m', 'epoch_0002_batch_000000 could not be written', 'epoch_0001_batch_000000'),
        # the model takes 20 MB more
        (1, '50m', 'run could not be written', 'epoch_0001_batch_000000'),
    ],
    ids=['checkpoint', 'model'],
)
def test_full_disk_is_explained_and_the_run_resumes_from_its_checkpoint(
    root, tiny_crops, tmp_path, epochs, size, refused, last
):
    disk = tmp_path / 'disk'
    options = f'--model resnet10t --img-size 32 --batch-size 8 --threads 1 --epochs {epochs} --optimizer momentum'
    inside = f'''
        mount -t tmpfs -o size={size} tmpfs "{disk}" || exit 77
        "{sys.executable}" train_scripts/finetune.py {options} --keep 1 --data "{tiny_crops}" --output "{disk}/run"
        echo "status $?"
        ls -A "{disk}/run/checkpoints"
        echo "left $(ls -A "{disk}/run" | tr '\\n' ' ')"
        mount -o remount,size=256m "{disk}"
        "{sys.executable}" train_scripts/finetune.py --resume "{disk}/run" && ls "{disk}/run/results.json"
    '''
    finished = run_with_a_disk(inside, root, disk)
    lines = finished.stdout.splitlines()
    assert 'Traceback' not in finished.stderr
    (said,) = [line for line in finished.stderr.splitlines() if line.startswith('error: ')]
    assert refused in said
    assert 'MB are free on its disk. ' in said and 'resume' in said
    after = lines[lines.index('status 1') :]
    assert after[1] == last
    assert set(after[2].split()[1:]) == {'checkpoints', 'config.yaml', 'log.jsonl'}
    assert 'resuming from' in after[3]
    assert after[-1] == f'{disk}/run/results.json'
