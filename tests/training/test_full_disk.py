"""Full disks, simulated by a limit of the system on file sizes: an explanation, the old files, no partial ones."""

import io
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
from PIL import Image

import timm_convattn  # noqa: F401
from timm_convattn.data.store import open_store, store_path
from timm_convattn.errors import InputError
from timm_convattn.figures import plot_confusion_matrix
from timm_convattn.files import create_folder, explain_full_disk, replace_file, replace_folder, write_json
from timm_convattn.hub import save_model
from timm_convattn.models.config import model_data_config
from timm_convattn.predictions import Predictions
from timm_convattn.results import RunResults, read_results

resource = pytest.importorskip('resource')


@contextmanager
def files_of_at_most(size):
    """Have the system refuse larger files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_network(path):
    model = timm.create_model('test_resnet', num_classes=2)
    with replace_folder(path) as temporary:
        save_model(model, temporary, ['a', 'b'], model_data_config(model))


def draw(path):
    results = read_results(Path(__file__).parents[1] / 'fixtures' / 'run_0.1.0' / 'results.json', RunResults)
    with replace_file(path) as beside:
        plot_confusion_matrix(results, beside)


def save_rows(path):
    with create_folder(path) as temporary:
        (temporary / 'rows').write_bytes(bytes(5_000))


WRITERS = {
    'results.json': lambda path: write_json(path, list(range(5_000))),
    'validation.safetensors': lambda path: Predictions(
        np.zeros((500, 4), np.float32), np.zeros(500, np.int64), ('a', 'b', 'c', 'd')
    ).save(path),
    'confusion_matrix.png': draw,
    'model': save_network,
    'crops': save_rows,
}


@pytest.mark.parametrize('name', WRITERS)
def test_full_disk_is_explained_and_the_old_files_stay(tmp_path, name):
    path, write = tmp_path / name, WRITERS[name]
    if name != 'crops':  # which are not replaced
        write(path)
    before = {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()}
    with (
        pytest.raises(InputError, match=r'could not be written \(.*File too large.*MB are free on its disk. Make room'),
        explain_full_disk(tmp_path, 'Make room.'),
        files_of_at_most(1_000),
    ):
        write(path)
    assert {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()} == before
    write(path)


def test_full_cache_is_explained_before_a_crop_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    content = io.BytesIO()
    Image.new('L', (9, 9)).save(content, 'PNG')
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=['a'])})
    rows = {'image': [{'bytes': content.getvalue(), 'path': None}] * 9, 'label': [0] * 9}
    crops = datasets.Dataset.from_dict(rows, features=features)
    with files_of_at_most(1_000), pytest.raises(InputError, match=r'could not be written .*XDG_CACHE_HOME'):
        open_store(crops, (24, 32))
    assert list(store_path(crops, (24, 32), 'bilinear').parent.iterdir()) == []
    assert len(open_store(crops, (24, 32))) == 9


def test_other_errors_are_not_changed(tmp_path):
    for error in (FileNotFoundError(2, 'no such file'), RuntimeError('of another kind'), InputError('a sentence')):
        with pytest.raises(type(error)) as raised, explain_full_disk(tmp_path, 'Make room.'):
            raise error
        assert raised.value is error
