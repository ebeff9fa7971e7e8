"""A study that was really made: small networks on small crops, by reproduce.py."""

import pytest
import yaml
from script_runner import run_script

MATRIX = {
    'about': 'Networks of a few seconds.',
    'seeds': [0, 1],
    'options': {'img_size': 32, 'in_chans': 1, 'batch_size': 8, 'epochs': 1, 'lr': 0.001},
    'studies': {
        'table2': {
            'title': 'All networks (Table 2)',
            'rows': {
                'ResNet18': {'model': 'resnet18', 'hold_out': 0.2, 'paper': 'ResNet50'},
                'AResNet18': {
                    'model': 'aresnet18_relmha',
                    'start': 'ResNet18',
                    'against': 'ResNet18',
                    'paper': 'AResNet50',
                },
            },
        },
        'later': {'rows': {'ResNet18': {'model': 'resnet18', 'sampling': 'balanced'}}},
    },
}


def reproduce(root, *args):
    """Run reproduce.py; its runs are processes of their own."""
    return run_script(root / 'train_scripts' / 'reproduce.py', *args)


@pytest.fixture(scope='session')
def matrix_file(tmp_path_factory):
    """The matrix of the study."""
    path = tmp_path_factory.mktemp('matrix') / 'small.yaml'
    path.write_text(yaml.safe_dump(MATRIX, sort_keys=False))
    return path


@pytest.fixture(scope='session')
def studied(root, matrix_file, tiny_crops, tmp_path_factory):
    """The folder of the finished study."""
    out = tmp_path_factory.mktemp('studied') / 'studies'
    made = reproduce(root, 'table2', '--scale', matrix_file, '--data', tiny_crops, '--out', out, '--jobs', '2')
    assert made.returncode == 0, made.stdout + made.stderr
    return out
