"""Small runs, and a new state of accelerate for each run in this process."""

import pytest
from script_runner import forget_accelerate

from timm_convattn.config import parse_config

TINY = [
    *('--model', 'aresnet18_relmha', '--img-size', '32', '--in-chans', '1', '--batch-size', '8'),
    *('--epochs', '2', '--lr', '1e-3', '--threads', '1'),
    *('--weight-decay', '0', '--warmup-epochs', '0', '--label-smoothing', '0'),
]


@pytest.fixture(autouse=True)
def _clean_accelerate():
    """Reset the state of accelerate, as in a new process."""
    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture
def tiny_config(tiny_crops, tmp_path):
    """Configuration of a run on the small crops that takes seconds."""

    def make(*args: str, output: str = 'run'):
        return parse_config([*TINY, '--data', str(tiny_crops), '--output', str(tmp_path / output), *args])

    return make
