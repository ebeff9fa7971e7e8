"""A study on a real Ray cluster, of which a node dies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

MATRIX = {
    'seeds': [0],
    'options': {'img_size': 32, 'in_chans': 1, 'batch_size': 8, 'epochs': 9, 'checkpoint_every': 3},
    'studies': {
        'rows': {
            'rows': {
                'plain': {'model': 'resnet18'},
                'slower': {'model': 'resnet18', 'lr': 1e-4},
                'ours': {'model': 'aresnet18_relmha', 'start': 'plain'},
            }
        }
    },
}


@pytest.mark.slow
def test_a_node_dies_and_every_run_is_finished_once_with_a_gpu_to_itself(root, tiny_crops, tmp_path, ray_variables):
    matrix, out = tmp_path / 'matrix.yaml', tmp_path / 'studies'
    matrix.write_text(yaml.safe_dump(MATRIX, sort_keys=False))
    command = [sys.executable, Path(__file__).with_name('run_on_ray.py'), out, root / 'train_scripts' / 'reproduce.py']
    command += ['rows', '--scale', matrix, '--data', tiny_crops]
    result = subprocess.run([*map(str, command)], env=ray_variables, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith('3 runs, 0 of them finished already')
    lines = [
        line for line in result.stdout.splitlines() if line.startswith(('finished', 'failed', 'stopped', 'killed'))
    ]
    assert lines[0] == 'killed a node'
    assert len(lines) == 4
    assert all(line.startswith('finished: ') for line in lines[1:])
    runs = sorted(path for path in (out / 'runs').iterdir() if path.is_dir())
    for run in runs:
        epochs = [json.loads(line)['epoch'] for line in (run / 'log.jsonl').read_text().splitlines()]
        assert epochs == list(range(1, 10))
        assert json.loads((run / 'results.json').read_text())['training']['epochs'] == 9
    logs = [run.with_name(f'{run.name}.log').read_text() for run in runs]
    assert sum('resuming from' in log for log in logs) >= 1  # the run of the dead node was resumed
    # two GPUs, of which one dies: the last run waits for another to end, and for what it starts from
    started = sorted((run / 'config.yaml').stat().st_ctime for run in runs)
    ended = sorted((run / 'results.json').stat().st_mtime for run in runs)
    assert started[2] > ended[0]
    (ours,) = (run for run in runs if 'init_from: local-dir' in (run / 'config.yaml').read_text())
    start = Path(yaml.safe_load((ours / 'config.yaml').read_text())['init_from'].removeprefix('local-dir:')).parent
    assert (ours / 'config.yaml').stat().st_mtime > (start / 'results.json').stat().st_mtime
