"""Runs on a real Ray cluster, of which a node dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_node_dies_and_every_run_is_finished_once(root, tiny_crops, tmp_path):
    options = ['--img-size', '32', '--in-chans', '1', '--batch-size', '8', '--epochs', '25', '--data', str(tiny_crops)]
    command = [sys.executable, str(Path(__file__).with_name('run_on_ray.py'))]
    command += [str(root / 'train_scripts' / 'finetune.py'), str(tmp_path), *options]
    said = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert said.returncode == 0, said.stdout + said.stderr
    lines = [line for line in said.stdout.splitlines() if line.startswith(('finished', 'failed', 'stopped', 'killed'))]
    assert sorted(lines) == ['finished run0', 'finished run1', 'finished run2', 'killed a node']
    assert lines[0] == 'killed a node'
    begun, ended = (tmp_path / name for name in ('run2/config.yaml', 'run0/results.json'))
    assert begun.stat().st_mtime > ended.stat().st_mtime  # run2 waited for the one that it starts from
    logs = [(tmp_path / f'run{seed}.log').read_text() for seed in range(3)]
    assert sum('going on from' in log for log in logs) >= 1  # what the dead node had begun went on from its checkpoint
    for seed in range(3):
        epochs = [
            json.loads(line)['epoch'] for line in (tmp_path / f'run{seed}' / 'log.jsonl').read_text().splitlines()
        ]
        assert epochs == list(range(1, 26))
        assert json.loads((tmp_path / f'run{seed}' / 'results.json').read_text())['training']['epochs'] == 25
