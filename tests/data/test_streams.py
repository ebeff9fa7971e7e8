"""Streams: each crop once, in another order in each epoch, with the same pixels as from disk."""

import datasets
import pytest
import torch

from timm_convattn.data.crop_images import CropImages, ResizeToPixels
from timm_convattn.data.sources import content_hash, open_crops
from timm_convattn.data.streams import StreamedImages, open_stream
from timm_convattn.errors import InputError


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch):
    """Skip the seconds that `datasets` sleeps after each pass with threads."""
    monkeypatch.setattr(datasets.config, 'SLEEP_TIME_ON_THREADS_SHUTDOWN', 0, raising=False)


@pytest.fixture
def stream(tiny_crops):
    return open_stream(str(tiny_crops), 'train')


def test_each_epoch_has_each_crop_once_in_another_order(tiny_crops, stream):
    expected = CropImages(open_crops(str(tiny_crops), ('train',))['train'], ResizeToPixels((20, 24)), in_chans=1)
    images = StreamedImages(stream, ResizeToPixels((20, 24)), in_chans=1, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        images.set_epoch(epoch)
        orders.append([index for _, _, index in images])
        for pixels, label, index in images:
            assert torch.equal(pixels, expected[index][0])
            assert label == expected[index][1]
    assert sorted(orders[0]) == list(range(28))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert len(images) == 28


def test_take_returns_the_first_crops_with_their_labels(stream):
    few = stream.take(5)
    assert [row['label'] for row in few.rows] == stream.labels[:5] == few.labels
    assert stream.features['label'].names == ['person', 'vehicle', 'bicycle', 'dog']


def test_loaded_stream_is_the_split(tiny_crops):
    crops = open_crops(str(tiny_crops), ('validation',))['validation']
    assert content_hash(open_stream(str(tiny_crops), 'validation').load()) == content_hash(crops)


def test_other_data_than_crops_is_refused(tmp_path, tiny_crops, tiny_frames):
    with pytest.raises(InputError, match='holds frames, not crops'):
        open_stream(str(tiny_frames), 'train')
    (tmp_path / 'notes.txt').write_text('nothing')
    with pytest.raises(InputError, match='the column "image" is missing'):
        open_stream(str(tmp_path), 'train')
    with pytest.raises(InputError, match='could not be opened as a data set of crops'):
        open_stream(str(tiny_crops), 'night')
