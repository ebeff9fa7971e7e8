"""Small runs, and a clean accelerate for every run in this process."""

import pytest
from accelerate.state import AcceleratorState, GradientState

from timm_convattn.training.config import parse_config

TINY = [
    *('--model', 'aresnet18_relmha', '--img-size', '32', '--in-chans', '1', '--batch-size', '8'),
    *('--epochs', '2', '--lr', '1e-3', '--threads', '1'),
]


@pytest.fixture(autouse=True)
def _clean_accelerate():
    """Accelerate keeps its state for the whole process; each run of a test starts as a process would."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture
def tiny_config(tiny_crops, tmp_path):
    """Gives the configuration of a run on the small crops that takes seconds."""

    def make(*args: str, output: str = 'run'):
        return parse_config([*TINY, '--data', str(tiny_crops), '--output', str(tmp_path / output), *args])

    return make
