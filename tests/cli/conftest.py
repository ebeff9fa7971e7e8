"""The command line in this process, a model of small images, and images."""

from subprocess import CompletedProcess

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import timm_convattn  # noqa: F401  registers the models
from timm_convattn.hub import save_model
from timm_convattn.rejection import Rejection
from timm_convattn_cli import main

CLASSES = ['person', 'vehicle', 'bicycle', 'dog']
INPUT = {
    'input_size': (1, 32, 32),
    'interpolation': 'bilinear',
    'mean': (0.45,),
    'std': (0.23,),
    'crop_pct': 1.0,
    'crop_mode': 'squash',
}


@pytest.fixture(scope='session')
def model_folder(tmp_path_factory):
    """A model with a rejection.json, whose random weights distinguish images."""
    folder = tmp_path_factory.mktemp('models') / 'tiny'
    torch.manual_seed(0)
    model = timm.create_model('aresnet18_relmha', num_classes=4, in_chans=1, img_size=32)
    torch.nn.init.normal_(model.fc.weight, std=0.5)
    save_model(model, folder, CLASSES, INPUT)
    confidence = np.linspace(0.3, 1.0, 400)
    Rejection(2.0, confidence, confidence > 0.6).save(folder)
    return folder


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A folder with images, one of them in a subfolder, and a file that is not an image."""
    folder = tmp_path_factory.mktemp('images')
    (folder / 'deep').mkdir()
    for index, name in enumerate(['b.png', 'a.png', 'deep/c.jpg']):
        pixels = np.random.default_rng(index).integers(0, 60 + 60 * index, (20 + index, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture
def cli(capsys):
    """Runs a command, and returns its output and exit status."""

    def run(*args):
        command = [str(arg) for arg in args]
        try:
            status = main(command)
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        printed = capsys.readouterr()
        return CompletedProcess(command, status, printed.out, printed.err)

    return run
