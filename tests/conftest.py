"""Settings of every test: no network, a temporary cache, one thread a process."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

# set before torch and the Hub's clients are imported, and inherited by the processes that tests start; a folder that is
# set from outside is kept, so that the next test run finds the drawn scenes and the trained network in it
_IS_OURS = 'CONVATTN_TEST_HOME' not in os.environ
_HOME = Path(os.environ.get('CONVATTN_TEST_HOME') or tempfile.mkdtemp(prefix='convattn-tests.'))
os.environ.update(
    CONVATTN_TEST_HOME=str(_HOME),
    HF_HUB_OFFLINE='1',
    HF_HOME=str(_HOME / 'hf' / os.environ.get('PYTEST_XDIST_WORKER', 'main')),
    XDG_CACHE_HOME=str(_HOME / 'cache'),
    OMP_NUM_THREADS='1',
    OMP_WAIT_POLICY='passive',  # threads that wait leave the cores to other tests
    TQDM_DISABLE='1',
)

gc.disable()  # until all is imported: those objects stay, so collections would be wasted
atexit.register(gc.freeze)  # at the end as well, which would take a second

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from flir_writer import FlirWriter  # noqa: E402
from made_once import made_once  # noqa: E402
from PIL import Image  # noqa: E402

torch.set_num_threads(1)


# files that take over a minute, the longest first, so that no worker starts one of them last
LONGEST = [
    'processes',
    'load',
    'reproduce',
    'examples',
    'ray',
    'scripts',
    'survival',
    'space',
    'pages',
    'models',
    'finetune',
]


def pytest_collection_modifyitems(items):
    """Move the longest files to the front, and keep the order otherwise."""
    ranks = {f'test_{name}.py': rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def pytest_collection_finish():
    """Exclude what exists before the first test from garbage collection."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config):
    """Remove the temporary home; under xdist the controller ends last and removes it for all."""
    if _IS_OURS:
        shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Reset the number of threads after each test."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def root():
    """The checkout."""
    return Path(__file__).parent.parent


@pytest.fixture
def flir_writer(tmp_path):
    """Return a function that creates a writer of small FLIR folders."""

    def make(layout: str = 'v1.3', **kwargs) -> FlirWriter:
        return FlirWriter(tmp_path / 'flir', layout, **kwargs)

    return make


@pytest.fixture
def ray_variables():
    """Environment of a process with its own Ray cluster, whose folder is removed after the test."""
    folder = Path(tempfile.mkdtemp(prefix='ray.'))  # short, because paths of sockets are limited
    (folder / 'ray').mkdir()  # Ray's test utility writes the address into it, and does not create it
    variables = {
        'RAY_TMPDIR': str(folder),
        'RAY_USAGE_STATS_ENABLED': '0',
        'RAY_ENABLE_AUTO_CONNECT': '0',  # as `ray_cluster` sets it when it imports ray first
        'RAY_worker_niceness': '0',  # else workers get only idle time
    }
    yield os.environ | variables
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='session')
def tiny_frames():
    """A FLIR folder of small frames, one object in each: 28 to train, 11 to validate, of three kinds; no dog."""
    return made_once('tiny_frames', _draw_frames) / 'flir'


def _draw_frames(folder):
    writer = FlirWriter(folder / 'flir', size=(64, 48))
    kinds = ['person', 'car', 'bicycle']
    for split, count in (('train', 28), ('val', 11)):
        writer.split(split, [[(kinds[i % 3], [2, 2, 40, 40])] for i in range(count)])
        for index, path in enumerate(writer.frames(split)):
            noise = np.random.default_rng(index).integers(0, 40, (48, 64))
            stripes = 120 * (np.arange(64) // 6 % 2)
            pixels = noise + [20, 180, stripes][index % 3]
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


@pytest.fixture(scope='session')
def tiny_crops(tiny_frames):
    """The crops of these frames."""
    from timm_convattn.data.crops import build_crops

    return made_once('tiny_crops', lambda folder: build_crops(tiny_frames, folder / 'crops')) / 'crops'
