"""Runs that are killed, told to stop or out of room: what they leave, and that they go on as if nothing had been."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from script_runner import start_script

from timm_convattn.errors import InputError
from timm_convattn.training.config import parse_config
from timm_convattn.training.finetune import finetune
from timm_convattn.training.run_folder import resume_config

NOT_COMPARED = {'seconds', 'waited_for_crops', 'waited', 'date', 'command', 'output', 'resume'}


def comparable(value):
    """Without what differs between two runs of one command."""
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items() if key not in NOT_COMPARED}
    return [comparable(entry) for entry in value] if isinstance(value, list) else value


def state(run: Path):
    """Everything that a finished run leaves: log, results, weights, and the hashes of all files of its checkpoints."""
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


def resume(run: Path, *args: str) -> Path:
    args = ['--resume', str(run), *args]
    return finetune(resume_config(parse_config(args), args))


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), 'the run ended before it was killed'
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_as_one_that_is_not(root, tiny_crops, tmp_path):
    script, rng = root / 'train_scripts' / 'finetune.py', random.Random(0)
    args = ['--model', 'convattn', '--model-args', 'backbone=resnet10t', 'attn_drop=0.2', '--drop-rate', 0.3]
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
    ours, theirs = state(parts), state(whole)
    for part in theirs:
        assert ours[part] == theirs[part], part
    assert len(theirs['log']) == 26


def test_preempted_run_saves_exits_with_the_signals_code_and_goes_on_as_if_nothing_had_been(
    root, tiny_config, tiny_crops, tmp_path
):
    script, said, run = root / 'train_scripts' / 'finetune.py', tmp_path / 'said.txt', tmp_path / 'run'
    options = ['--model', 'resnet10t', '--data', tiny_crops, '--img-size', 32, '--batch-size', 4]
    options += ['--epochs', 60, '--threads', 1, '--output', run]
    process = start_script(script, *options, output=said)
    wait_for((run / 'log.jsonl').exists, process)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert f'Go on with: accelerate launch train_scripts/finetune.py --resume {run}' in said.read_text()
    epochs = len((run / 'log.jsonl').read_text().splitlines())
    resume(run, '--epochs', str(epochs + 1))
    assert [json.loads(line)['epoch'] for line in (run / 'log.jsonl').read_text().splitlines()] == [
        *range(1, epochs + 2)
    ]


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
def test_damaged_newest_checkpoint_falls_back_to_the_one_before_and_ends_the_same(
    three_epochs, tmp_path, capfd, name, how
):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    newest, before = (run / 'checkpoints' / f'epoch_000{epoch}_batch_000000' for epoch in (3, 2))
    damaged(newest / name, how)
    if (name, how) == ('progress.json', 'missing'):  # it was never finished
        resume(run)
    else:
        resume(run)
        assert f'warning: the checkpoint {newest} is damaged' in capfd.readouterr().err
        assert (run / 'checkpoints' / f'damaged_{newest.name}').is_dir()
    assert before.is_dir()
    ours, theirs = state(run), state(three_epochs)
    assert all(ours[part] == theirs[part] for part in theirs)


def test_run_without_one_good_checkpoint_says_so_and_touches_nothing(three_epochs, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    for path in run.glob('checkpoints/*/optimizer.bin'):
        damaged(path, 'flipped')
    results = (run / 'results.json').read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match=r'All checkpoints in .* are damaged: .*Remove that folder to begin'):
            resume(run)
    assert (run / 'results.json').read_bytes() == results


def test_half_a_line_at_the_end_of_the_log_is_written_again(three_epochs, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(three_epochs, run)
    shutil.rmtree(run / 'checkpoints' / 'epoch_0003_batch_000000')
    lines = (run / 'log.jsonl').read_text().splitlines()
    (run / 'log.jsonl').write_text('\n'.join([*lines[:2], lines[2][:40]]))
    resume(run)
    assert state(run)['log'] == state(three_epochs)['log']


@pytest.mark.slow
def test_full_disk_ends_with_a_sentence_and_the_last_good_checkpoint_goes_on(root, tiny_crops, tmp_path):
    if shutil.which('unshare') is None:
        pytest.skip('there is no unshare to mount a small disk with')
    place = tmp_path / 'disk'
    place.mkdir()
    options = '--model resnet10t --img-size 32 --batch-size 8 --threads 1 --epochs 4 --optimizer momentum --keep 1'
    # a checkpoint of this network takes 40 MB: the disk holds one, not two
    inside = f'''
        mount -t tmpfs -o size=64m tmpfs "{place}" || exit 77
        "{sys.executable}" train_scripts/finetune.py {options} --data "{tiny_crops}" --output "{place}/run"
        echo "status $?"
        ls -A "{place}/run/checkpoints"
        mount -o remount,size=256m "{place}"
        "{sys.executable}" train_scripts/finetune.py --resume "{place}/run" && ls "{place}/run/results.json"
    '''
    command = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', inside]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=300)
    if finished.returncode == 77 or 'unshare' in finished.stderr:
        pytest.skip(f'no disk can be mounted here: {finished.stderr}')
    lines = finished.stdout.splitlines()
    assert 'Traceback' not in finished.stderr
    assert 'epoch_0002_batch_000000 could not be written' in finished.stderr
    assert 'MB are free on its disk. The run can go on from' in finished.stderr
    after = lines[lines.index('status 1') :]
    assert after[1] == 'epoch_0001_batch_000000'
    assert 'going on from' in after[2]
    assert after[-1] == f'{place}/run/results.json'
