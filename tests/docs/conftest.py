"""A folder as the documents assume it: a clone, with frames of four classes next to the scripts."""

import numpy as np
import pytest
from flir_writer import FlirWriter
from PIL import Image

KINDS = ['person', 'car', 'bicycle', 'dog']


def _textures(rng):
    """Return a crop of each class; a few training steps distinguish them."""
    stripes = 120 * (np.arange(32) // 4 % 2)
    patterns = [
        np.full((24, 32), 30),
        np.full((24, 32), 200),
        np.tile(stripes, (24, 1)),
        np.tile(stripes[:24, None], 32),
    ]
    return [(pattern + rng.integers(0, 40, (24, 32))).astype(np.uint8) for pattern in patterns]


@pytest.fixture(scope='session')
def frames(tmp_path_factory):
    """A small copy of FLIR's starter set: frames with an object of each class, of 8 and of 16 bits."""
    writer = FlirWriter(tmp_path_factory.mktemp('docs') / 'FLIR_ADAS_1_3', size=(64, 48), prefix='FRAME')
    rng = np.random.default_rng(0)
    for split, count in (('train', 60), ('val', 12)):
        boxes = [[32 * (i % 2), 24 * (i // 2), 32, 24] for i in range(4)]
        writer.split(split, [list(zip(KINDS, boxes, strict=True))] * count)
        sixteen = writer.folder / split / 'thermal_16_bit'
        sixteen.mkdir()
        for path in writer.frames(split):
            top, bottom = np.hstack(_textures(rng)[:2]), np.hstack(_textures(rng)[2:])
            pixels = np.vstack([top, bottom])
            Image.fromarray(pixels).save(path, quality=95)
            Image.fromarray(7000 + 4 * pixels.astype(np.uint16)).save(sixteen / f'{path.stem}.tiff')
    return writer.folder


@pytest.fixture
def clone(root, frames, tmp_path, monkeypatch):
    """The working folder of a reader: what the documents name by relative paths is there."""
    for name in ('train_scripts', 'hub_cards'):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / 'FLIR_ADAS_1_3').symlink_to(frames)
    monkeypatch.chdir(tmp_path)
    return tmp_path
