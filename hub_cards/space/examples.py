"""Example frames and crops, drawn when the demo starts, from a fixed seed."""

from frames import BoxedFrame
from PIL import Image

from timm_convattn.data.classes import CLASS_OF_CATEGORY
from timm_convattn.data.flir import Box
from timm_convattn.data.thermal_scenes import draw_frame

SEED = 1_000_003  # training data drawn with smaller seeds does not contain these frames
FRAMES = 4


def draw_frames(count: int = FRAMES) -> list[BoxedFrame]:
    """Draw thermal street scenes with their boxes."""
    scenes = (draw_frame(SEED, index) for index in range(count))
    return [
        BoxedFrame(Image.fromarray(pixels), tuple(Box(box.category, box.x, box.y, box.w, box.h) for box in boxes))
        for pixels, boxes in scenes
    ]


def choose_crops(frames: list[BoxedFrame]) -> list[tuple[Image.Image, str]]:
    """Return the largest and a small crop of each class, with the name of the class."""
    crops = [
        (crop, CLASS_OF_CATEGORY[box.category])
        for frame in frames
        for crop, box in zip(frame.crops(), frame.boxes, strict=True)
    ]
    chosen = []
    for name in dict.fromkeys(CLASS_OF_CATEGORY.values()):
        found = sorted((crop for crop, label in crops if label == name), key=lambda crop: crop.width * crop.height)
        chosen += [(found[-1], name), (found[len(found) // 4], name)] if found else []
    return chosen
