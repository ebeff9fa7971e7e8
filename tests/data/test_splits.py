"""Crops held out from training: blocks of frames, which do not depend on the order of the crops."""

import datasets
import numpy as np
import pytest

from timm_convattn.data.splits import hold_out_frames
from timm_convattn.errors import InputError


def crops_of(frames, per_frame=3):
    sources = [f'train/FRAME_{frame:05d}.jpeg' for frame in range(frames) for _ in range(per_frame)]
    return datasets.Dataset.from_dict({'source': sources, 'number': list(range(len(sources)))})


@pytest.mark.parametrize(('frames', 'share'), [(1000, 0.1), (1000, 0.25), (30, 0.2), (7, 0.5)])
def test_share_of_frames_is_held_out_and_no_frame_is_on_both_sides(frames, share):
    trained, held = hold_out_frames(crops_of(frames), share)
    assert len(trained) + len(held) == 3 * frames
    expected = pytest.approx(share * frames, abs=frames / 50 + 1)  # up to a block
    assert len(set(held['source'])) == expected
    assert not set(trained['source']) & set(held['source'])


def test_neighbouring_frames_are_held_out_together():
    _, held = hold_out_frames(crops_of(1000), 0.1)
    numbers = np.unique([int(source[12:17]) for source in held['source']])
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    assert [len(run) for run in runs] == [20] * 5


def test_split_does_not_depend_on_the_order_of_the_crops():
    crops = crops_of(200)
    shuffled = crops.shuffle(seed=0)
    first, second = (set(hold_out_frames(order, 0.1)[1]['number']) for order in (crops, shuffled))
    assert first == second


def test_crops_without_frame_names_and_empty_sides_are_refused():
    with pytest.raises(InputError, match='not source'):
        hold_out_frames(crops_of(10).remove_columns('source'), 0.1)
    with pytest.raises(InputError, match='0 would be held out'):
        hold_out_frames(crops_of(3), 0.01)
