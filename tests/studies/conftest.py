"""A study that was really made: small networks on small crops, by reproduce.py."""

import pytest
import yaml
from made_once import made_once
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
def matrix_file():
    """The matrix of the study."""

    def write(folder):
        (folder / 'small.yaml').write_text(yaml.safe_dump(MATRIX, sort_keys=False))

    return made_once('matrix', write) / 'small.yaml'


@pytest.fixture(scope='session')
def studied(root, matrix_file, tiny_crops):
    """The folder of the finished study."""

    def study(folder):
        command = ['table2', '--scale', matrix_file, '--data', tiny_crops, '--out', folder / 'studies', '--jobs', '2']
        made = reproduce(root, *command)
        assert made.returncode == 0, made.stdout + made.stderr

    return made_once('studied', study) / 'studies'
