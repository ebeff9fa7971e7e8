"""Splitting crops by the frames that they were cut from."""

import datasets
import numpy as np

from timm_convattn.errors import InputError

__all__ = ['hold_out_frames']

HELD_OUT_BLOCKS = 50  # number of blocks of frames


def hold_out_frames(crops: datasets.Dataset, share: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split crops into those to train on and those held out, by blocks of consecutive frames.

    Neighbouring frames of a video are nearly identical, so frames held out one by one would be almost trained on. The
    frames are sorted by name and cut into blocks, and evenly spaced blocks are held out: the same ones for every seed
    and every order of the crops.

    Args:
        crops: A data set with the column `source`, as `build_crops` writes it.
        share: Share of the frames to hold out, in (0, 1).

    Returns:
        The crops to train on, and those held out.

    Raises:
        InputError: If the crops have no column `source`, or one side would be empty.
    """
    if 'source' not in crops.features:
        raise InputError(
            f'The crops have the columns {", ".join(crops.features)}, but not source, the path of their frame, which '
            'is needed to hold out frames. Build the crops again.'
        )
    names, frames = np.unique(crops['source'][:], return_inverse=True)
    num_blocks = min(HELD_OUT_BLOCKS, len(names))
    blocks = np.arange(num_blocks)
    kept = np.floor((blocks + 1) * share + 1e-9) > np.floor(blocks * share + 1e-9)
    held = kept[frames * num_blocks // len(names)]
    if held.all() or not held.any():
        raise InputError(f'Of {len(crops)} crops {held.sum()} would be held out at a share of {share}.')
    return crops.select(np.flatnonzero(~held)), crops.select(np.flatnonzero(held))
