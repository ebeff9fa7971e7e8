"""Streams: every crop once, in an order of its own in every epoch, the same pixels as from the disk."""

import datasets
import pytest
import torch

from timm_convattn.data.crop_images import CropImages, ResizeToPixels
from timm_convattn.data.sources import content_hash, open_crops
from timm_convattn.data.streams import StreamedImages, open_stream
from timm_convattn.errors import InputError


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch):
    """The library rests for seconds after each pass that threads read for."""
    monkeypatch.setattr(datasets.config, 'SLEEP_TIME_ON_THREADS_SHUTDOWN', 0, raising=False)


@pytest.fixture
def stream(tiny_crops):
    return open_stream(str(tiny_crops), 'train')


def test_every_epoch_has_every_crop_once_and_an_order_of_its_own(tiny_crops, stream):
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


def test_labels_are_known_and_the_first_crops_can_be_taken(stream):
    few = stream.take(5)
    assert [row['label'] for row in few.rows] == stream.labels[:5] == few.labels
    assert stream.features['label'].names == ['person', 'vehicle', 'bicycle', 'dog']


def test_loaded_stream_is_the_split(tiny_crops):
    whole = open_crops(str(tiny_crops), ('validation',))['validation']
    assert content_hash(open_stream(str(tiny_crops), 'validation').load()) == content_hash(whole)


def test_what_is_no_data_set_of_crops_is_refused(tmp_path, tiny_crops, tiny_frames):
    with pytest.raises(InputError, match='holds frames, not crops'):
        open_stream(str(tiny_frames), 'train')
    (tmp_path / 'notes.txt').write_text('nothing')
    with pytest.raises(InputError, match='the column "image" is missing'):
        open_stream(str(tmp_path), 'train')
    with pytest.raises(InputError, match='could not be opened as a data set of crops'):
        open_stream(str(tiny_crops), 'night')
