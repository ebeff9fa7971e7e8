"""Crops of the embedded scenes, with the pixels of the object."""

from dataclasses import dataclass
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image

from timm_convattn.data import thermal_scenes
from timm_convattn.data.flir import Box
from timm_convattn.data.thermal_scenes import draw_frame


@dataclass(frozen=True)
class SeenCrop:
    """A crop with some background around its object."""

    image: Image.Image
    object: npt.NDArray[np.bool_]
    """(H, W): the visible pixels of the object."""


def draw_crops(frames: range, context: float, aside: float = 0.0) -> list[SeenCrop]:
    """Cut the objects out of frames of the default data set.

    Args:
        frames: Indices of the frames in the data set.
        context: How many times as wide and high as an object's box its crop is.
        aside: Position of the box in the crop: left (-1), centre (0) or right (1).
    """
    crops = []
    for index in frames:
        frame, boxes, owner, categories = _draw_with_owners(index)
        for box in boxes:
            shown = _figure_in(box, owner, categories)
            left, top = box.x - box.w * (context - 1) * (1 + aside) / 2, box.y - box.h * (context - 1) / 2
            edges = np.clip(
                np.rint([left, top, left + box.w * context, top + box.h * context]), 0, (*frame.shape[::-1],) * 2
            )
            x0, y0, x1, y1 = edges.astype(int)
            crops.append(SeenCrop(Image.fromarray(frame[y0:y1, x0:x1]), shown[y0:y1, x0:x1]))
    return crops


def _draw_with_owners(index: int):
    """Draw a frame and return it with its boxes, the index of the actor at each pixel, and the actors' categories."""
    kept = {}

    def keep(frame, owner, actors, rng):
        kept.update(owner=owner.copy(), categories=[actor.category for actor in actors])
        return visible_boxes(frame, owner, actors, rng)

    visible_boxes = thermal_scenes.visible_boxes
    with mock.patch.object(thermal_scenes, 'visible_boxes', keep):
        frame, boxes = draw_frame(0, index)
    return frame, boxes, kept['owner'], kept['categories']


def _figure_in(box: Box, owner: npt.NDArray[np.int16], categories: list[str]) -> npt.NDArray[np.bool_]:
    """Return the pixels of the actor whose own box is closest to a box."""
    expected = np.array([box.x, box.y, box.x + box.w, box.y + box.h])
    best, least = None, np.inf
    for number, category in enumerate(categories, start=1):
        seen = owner == number
        if category == box.category and seen.any():
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            off = np.abs(expected - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).sum()
            if off < least:
                best, least = seen, off
    assert best is not None
    assert least < box.w + box.h  # a box is off by a few percent
    return best
