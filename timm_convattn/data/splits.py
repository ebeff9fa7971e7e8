"""Splitting crops by the frames that they were cut from."""

import datasets
import numpy as np

from timm_convattn.errors import InputError

__all__ = ['hold_out_frames']

HELD_OUT_BLOCKS = 50  # into which the frames are cut


def hold_out_frames(crops: datasets.Dataset, share: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split crops into those to train on and those kept from it, whole runs of frames on one side.

    Neighbouring frames of a video are nearly the same: a crop whose twin was trained on would tell nothing. So the
    frames, in the order of their names, are cut into blocks, and blocks that are spread evenly are kept. It is the same
    for every seed and every order of the crops.

    Args:
        crops: With the column `source` of built crops.
        share: Share of the frames to keep from training, in (0, 1).

    Raises:
        InputError: If the crops do not name their frames, or one side would be empty.
    """
    if 'source' not in crops.features:
        raise InputError(
            f'The crops have columns {", ".join(crops.features)}, but not source, the path of their frame: '
            'which of them are of one frame is not known, so none can be held out.'
        )
    names, frames = np.unique(crops['source'][:], return_inverse=True)
    num_blocks = min(HELD_OUT_BLOCKS, len(names))
    blocks = np.arange(num_blocks)
    kept = np.floor((blocks + 1) * share + 1e-9) > np.floor(blocks * share + 1e-9)
    held = kept[frames * num_blocks // len(names)]
    if held.all() or not held.any():
        raise InputError(f'Of {len(crops)} crops {held.sum()} would be held out at a share of {share}.')
    return crops.select(np.flatnonzero(~held)), crops.select(np.flatnonzero(held))
