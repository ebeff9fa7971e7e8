"""Small crops to train on, and a clean accelerate for every run in this process."""

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from timm_convattn.data.crops import build_crops
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
def tiny_crops(flir_writer, tmp_path):
    """28 training and 11 validation crops of three classes, bright or dark or striped; no dog."""
    writer = flir_writer(size=(64, 48))
    kinds = ['person', 'car', 'bicycle']
    for split, count in (('train', 28), ('val', 11)):
        writer.split(split, [[(kinds[i % 3], [2, 2, 40, 40])] for i in range(count)])
        for index, path in enumerate(writer.frames(split)):
            noise = np.random.default_rng(index).integers(0, 40, (48, 64))
            stripes = 120 * (np.arange(64) // 6 % 2)
            pixels = noise + [20, 180, stripes][index % 3]
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    build_crops(writer.folder, tmp_path / 'crops')
    return tmp_path / 'crops'


@pytest.fixture
def tiny_config(tiny_crops, tmp_path):
    """Gives the configuration of a run on the small crops that takes seconds."""

    def make(*args: str, output: str = 'run'):
        return parse_config([*TINY, '--data', str(tiny_crops), '--output', str(tmp_path / output), *args])

    return make
