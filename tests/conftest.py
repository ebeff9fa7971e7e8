"""What every test stands on: no network, no cache but a temporary one, one thread a process."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

# set before torch and the Hub's clients are imported, and inherited by the processes that tests start; a folder that is
# given stays, so that the next tests find the drawn scenes and the trained network in it
_IS_OURS = 'CONVATTN_TEST_HOME' not in os.environ
_HOME = Path(os.environ.get('CONVATTN_TEST_HOME') or tempfile.mkdtemp(prefix='convattn-tests.'))
os.environ.update(
    CONVATTN_TEST_HOME=str(_HOME),
    HF_HUB_OFFLINE='1',
    HF_HOME=str(_HOME / 'hf' / os.environ.get('PYTEST_XDIST_WORKER', 'main')),
    XDG_CACHE_HOME=str(_HOME / 'cache'),
    OMP_NUM_THREADS='1',
    OMP_WAIT_POLICY='passive',  # where a test asks for more, those that wait leave the cores to other tests
    TQDM_DISABLE='1',
)

gc.disable()  # until all is imported: what imports make stays, and is looked through in vain
atexit.register(gc.freeze)  # at the end as well, which would take a second

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from flir_writer import FlirWriter  # noqa: E402
from made_once import made_once  # noqa: E402
from PIL import Image  # noqa: E402

torch.set_num_threads(1)


# files that take a minute and more, the longest first: a worker that begins one last would be waited for
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
    """The longest files come first; among the others, and within each, the order stays."""
    places = {f'test_{name}.py': place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish():
    """What is there when the first test begins stays to the end: no collection looks through it again."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config):
    """Nothing of a run is left behind; under xdist its first process comes last and clears for all."""
    if _IS_OURS:
        shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread():
    """What a test does to the threads of this process ends with it."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def root():
    """The checkout."""
    return Path(__file__).parent.parent


@pytest.fixture
def flir_writer(tmp_path):
    """Gives a writer of small FLIR folders."""

    def make(layout: str = 'v1.3', **kwargs) -> FlirWriter:
        return FlirWriter(tmp_path / 'flir', layout, **kwargs)

    return make


@pytest.fixture
def ray_variables():
    """The environment of a process that has a Ray cluster of its own, whose folder goes when the test ends."""
    folder = Path(tempfile.mkdtemp(prefix='ray.'))  # short, for the sake of the sockets in it
    (folder / 'ray').mkdir()  # where Ray's test utility notes the address, and does not make it
    variables = {
        'RAY_TMPDIR': str(folder),
        'RAY_USAGE_STATS_ENABLED': '0',
        'RAY_ENABLE_AUTO_CONNECT': '0',  # as `ray_cluster` sets it where it is the first to import ray
        'RAY_worker_niceness': '0',  # else workers get only the time that no other test wants
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
