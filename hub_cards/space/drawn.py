"""Examples for those who have no thermal image at hand: drawn when the demo starts, from a seed of their own."""

import itertools

from frames import BoxedFrame
from PIL import Image

from timm_convattn.data.classes import CLASS_OF_CATEGORY
from timm_convattn.data.flir import Box
from timm_convattn.data.thermal_scenes import draw_frame

SEED = 1_000_003  # draws no frame that a run with a seed below draws
FRAMES = 4


def draw_frames(count: int = FRAMES) -> list[BoxedFrame]:
    """Draw thermal street scenes with their boxes."""
    scenes = (draw_frame(SEED, index) for index in range(count))
    return [
        BoxedFrame(Image.fromarray(pixels), tuple(Box(box.category, box.x, box.y, box.w, box.h) for box in boxes))
        for pixels, boxes in scenes
    ]


def choose_crops(frames: list[BoxedFrame]) -> list[tuple[Image.Image, str]]:
    """Choose the largest and a small crop of each class, with what they are of."""
    crops = [
        (crop, CLASS_OF_CATEGORY[box.category])
        for frame in frames
        for crop, box in zip(frame.crops(), frame.boxes, strict=True)
    ]
    of_class = {
        name: sorted((crop for crop, its_name in crops if its_name == name), key=lambda crop: crop.width * crop.height)
        for name in dict.fromkeys(CLASS_OF_CATEGORY.values())
    }
    chosen = [[(found[-1], name), (found[len(found) // 4], name)] for name, found in of_class.items() if found]
    return list(itertools.chain.from_iterable(chosen))
