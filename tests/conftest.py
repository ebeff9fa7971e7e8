"""What every test stands on: no network, no cache but a temporary one, one thread a process."""

import json
import os
import shutil
import tempfile
from pathlib import Path

# set before torch and the Hub's clients are imported, and inherited by the processes that tests start
_HOME = Path(os.environ.get('CONVATTN_TEST_HOME') or tempfile.mkdtemp(prefix='convattn-tests.'))
os.environ.update(
    CONVATTN_TEST_HOME=str(_HOME),
    HF_HUB_OFFLINE='1',
    HF_HOME=str(_HOME / 'hf' / os.environ.get('PYTEST_XDIST_WORKER', 'main')),
    XDG_CACHE_HOME=str(_HOME / 'cache'),
    OMP_NUM_THREADS='1',
    TQDM_DISABLE='1',
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

torch.set_num_threads(1)


def pytest_unconfigure(config):
    """Nothing of a run is left behind; under xdist its first process comes last and clears for all."""
    if 'PYTEST_XDIST_WORKER' not in os.environ:
        shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope='session')
def root():
    """The checkout."""
    return Path(__file__).parent.parent


LAYOUTS = {
    'v1.3': (
        {'train': 'train', 'val': 'val', 'video': 'video'},
        'thermal_annotations.json',
        'thermal_8_bit',
        'jpeg',
    ),
    'v2': (
        {'train': 'images_thermal_train', 'val': 'images_thermal_val', 'video': 'video_thermal_test'},
        'coco.json',
        'data',
        'jpg',
    ),
}
CATEGORIES = {'person': 1, 'bicycle': 2, 'bike': 20, 'car': 3, 'dog': 17, 'other vehicle': 91}


class FlirWriter:
    """Writes a small folder in a FLIR layout; tests bend what they need bent."""

    def __init__(self, folder: Path, layout: str = 'v1.3', size: tuple[int, int] = (640, 512), prefix: str = 'TEST'):
        self.folder = folder
        self.splits, self.annotations, self.images, self.ending = LAYOUTS[layout]
        self.size = size
        self.prefix = prefix
        self.count = 0

    def split(self, name: str, frames: list[list[tuple[str, list[float]]]]) -> dict:
        """Write a split; each frame is a list of (category, box). Returns the annotations, to be bent."""
        place = self.folder / self.splits[name]
        (place / self.images).mkdir(parents=True)
        coco = {
            'info': {},
            'categories': [{'id': key, 'name': name} for name, key in CATEGORIES.items()],
            'images': [],
            'annotations': [],
        }
        for index, boxes in enumerate(frames):
            file_name = f'{self.images}/{self.prefix}_{self.count:05d}.{self.ending}'
            self.count += 1
            pixels = np.random.default_rng(self.count).integers(0, 256, self.size[::-1], dtype=np.uint8)
            Image.fromarray(pixels).save(place / file_name, quality=95)
            coco['images'].append({'id': index, 'file_name': file_name, 'width': self.size[0], 'height': self.size[1]})
            for category, box in boxes:
                coco['annotations'].append(
                    {
                        'id': len(coco['annotations']),
                        'image_id': index,
                        'category_id': CATEGORIES[category],
                        'bbox': box,
                        'iscrowd': 0,
                    }
                )
        self.write(name, coco)
        return coco

    def write(self, name: str, coco: dict) -> None:
        (self.folder / self.splits[name] / self.annotations).write_text(json.dumps(coco))

    def frames(self, name: str) -> list[Path]:
        return sorted((self.folder / self.splits[name] / self.images).iterdir())


@pytest.fixture
def flir_writer(tmp_path):
    """Gives a writer of small FLIR folders."""

    def make(layout: str = 'v1.3', **kwargs) -> FlirWriter:
        return FlirWriter(tmp_path / 'flir', layout, **kwargs)

    return make


@pytest.fixture(scope='session')
def tiny_frames(tmp_path_factory):
    """A FLIR folder of small frames, one object in each: 28 to train, 11 to validate, of three kinds; no dog."""
    writer = FlirWriter(tmp_path_factory.mktemp('tiny') / 'flir', size=(64, 48))
    kinds = ['person', 'car', 'bicycle']
    for split, count in (('train', 28), ('val', 11)):
        writer.split(split, [[(kinds[i % 3], [2, 2, 40, 40])] for i in range(count)])
        for index, path in enumerate(writer.frames(split)):
            noise = np.random.default_rng(index).integers(0, 40, (48, 64))
            stripes = 120 * (np.arange(64) // 6 % 2)
            pixels = noise + [20, 180, stripes][index % 3]
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    return writer.folder


@pytest.fixture(scope='session')
def tiny_crops(tiny_frames):
    """The crops of these frames."""
    from timm_convattn.data.crops import build_crops

    build_crops(tiny_frames, tiny_frames.parent / 'crops')
    return tiny_frames.parent / 'crops'
