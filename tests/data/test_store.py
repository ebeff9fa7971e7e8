"""The store: pixels equal those of decoding, created once for each size, and sliced in batches."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from timm_convattn.data.crop_images import CropImages, ResizeToPixels
from timm_convattn.data.store import identity_collate, open_store, store_path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (20 + 3 * i, 50 - i), dtype=np.uint8)) for i in range(12)]
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=['a', 'b', 'c'])})
    return datasets.Dataset.from_dict({'image': images, 'label': [i % 3 for i in range(12)]}, features=features)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_pixels_are_those_of_decoding_and_resizing(crops, interpolation):
    store = open_store(crops, (24, 32), interpolation)
    plain = CropImages(crops, ResizeToPixels((24, 32), interpolation), in_chans=1)
    pixels, labels, indices = store.__getitems__([3, 0, 11])
    again = store.__getitems__([15, 12, 23])  # indices past the last crop wrap around
    assert torch.equal(again[0], pixels)
    assert torch.equal(again[1], labels)
    assert again[2].tolist() == [15, 12, 23]
    assert pixels.dtype == torch.uint8
    for row, index in enumerate([3, 0, 11]):
        expected, label, _ = plain[index]
        assert torch.equal(pixels[row], expected)
        assert (labels[row], indices[row]) == (label, index)


def test_loader_returns_batches_with_and_without_workers(crops):
    store = open_store(crops, (24, 32))
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(store, batch_size=5, collate_fn=identity_collate, num_workers=workers)
        batches = list(loader)
        assert [len(labels) for _, labels, _ in batches] == [5, 5, 2]
        assert torch.cat([indices for _, _, indices in batches]).tolist() == list(range(12))
        assert torch.equal(torch.cat([pixels for pixels, _, _ in batches]), store.__getitems__(list(range(12)))[0])


def test_store_is_created_once_and_again_for_other_crops_or_sizes(crops):
    open_store(crops, (24, 32))
    path = store_path(crops, (24, 32), 'bilinear')
    written = path.stat().st_mtime_ns
    open_store(crops, (24, 32))
    assert path.stat().st_mtime_ns == written
    others = [(crops.select(range(11)), (24, 32)), (crops, (32, 24)), (crops.shuffle(seed=0), (24, 32))]
    assert len({path, *(store_path(other, size, 'bilinear') for other, size in others)}) == 4
    assert store_path(crops, (24, 32), 'bicubic') != path


def test_store_that_cannot_be_filled_leaves_no_file(crops, monkeypatch):
    def fail(self, image):
        raise RuntimeError('stop')

    monkeypatch.setattr(ResizeToPixels, '__call__', fail)
    with pytest.raises(RuntimeError, match='stop'):
        open_store(crops, (24, 32))
    assert list(store_path(crops, (24, 32), 'bilinear').parent.iterdir()) == []
