"""Frames with boxes: read from uploaded files, whose paths are never followed, and drawn as images."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from timm_convattn.data.flir import Box, read_annotations, read_frame
from timm_convattn.data.images import decode_image
from timm_convattn.errors import InputError
from timm_convattn.inference import Prediction

PERCENTILES = (1.0, 99.0)  # of the counts of a 16-bit image, drawn black and white
MAX_BOXES = 200
ZOOM = 2  # so that the numbers of small boxes are legible
COLOURS = ('#56b4e9', '#e69f00', '#2ecc8f', '#f06fb5', '#f0e442', '#8f9bff')  # distinguishable with colour blindness
REJECTED = '#c9ced6'


@dataclass(frozen=True)
class BoxedFrame:
    """A frame and its boxes."""

    image: Image.Image
    """Greyscale image."""
    boxes: tuple[Box, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of boxes left out, by reason."""

    def crops(self) -> list[Image.Image]:
        """Return the crop of each box."""
        return [box.cut(self.image) for box in self.boxes]

    def box_at(self, x: float, y: float) -> int | None:
        """Return the index of the smallest box that contains a pixel, None if there is none."""
        areas = [
            (box.w * box.h, index)
            for index, box in enumerate(self.boxes)
            if box.x <= x < box.x + box.w and box.y <= y < box.y + box.h
        ]
        return min(areas)[1] if areas else None


def open_boxed_frame(frame: Path, annotations: Path) -> BoxedFrame:
    """Read an uploaded frame and its boxes from uploaded annotations.

    Paths in the annotations are ignored: the boxes are those of the image with the name of the frame, or of the only
    image.

    Args:
        frame: An image.
        annotations: COCO annotations, as in FLIR ADAS.

    Raises:
        InputError: If one cannot be read, or the annotations are of other frames.
    """
    decode_image(frame, frame.name, percentiles=PERCENTILES)  # report a broken frame before problems with its boxes
    content = json.dumps(_of_one_frame(annotations, frame.name))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, 'annotations.json')
        copy.write_text(content)
        shutil.copyfile(frame, Path(folder, _COPY))
        try:
            split = read_annotations(copy)
            found = split.frames[0] if split.frames else None
            image = read_frame(found, PERCENTILES) if found is not None else None
        except InputError as error:
            message = str(error).replace(str(copy), annotations.name).replace(_COPY, frame.name)
            raise InputError(message) from None
    left_out = dict(sorted(split.dropped.items()))
    if found is None or image is None:
        reasons = '; '.join(f'{reason} ({count:,})' for reason, count in left_out.items())
        raise InputError(f'{annotations.name} has no box of {frame.name} to classify. {reasons}'.strip())
    if len(found.boxes) > MAX_BOXES:
        raise InputError(f'{frame.name} has {len(found.boxes):,} boxes; this page accepts {MAX_BOXES} in one frame.')
    return BoxedFrame(image, found.boxes, left_out)


_COPY = 'uploaded-frame'


def _of_one_frame(annotations: Path, name: str) -> dict[str, Any]:
    """Return COCO annotations of one frame alone, with the path of its copy."""
    try:
        coco = json.loads(annotations.read_bytes())
        entry = _entry_of(coco['images'], annotations.name, name)
        boxes = [item for item in coco['annotations'] if item['image_id'] == entry['id']]
        return {
            'categories': coco['categories'],
            'images': [{**entry, 'file_name': _COPY}],
            'annotations': boxes,
        }
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f'{annotations.name} holds no COCO annotations ({type(error).__name__}: {str(error)[:80]}). Wanted a JSON '
            'object with images, annotations and categories, such as thermal_annotations.json of FLIR ADAS.'
        ) from error


def _entry_of(images: list[dict[str, Any]], annotations: str, name: str) -> dict[str, Any]:
    """Return the image with the name of a frame, or of its 16-bit counterpart; or the only image."""
    names = [PureWindowsPath(item['file_name']).name for item in images]  # splits at both kinds of slashes
    for same in (lambda a, b: a == b, lambda a, b: Path(a).stem == Path(b).stem):
        found = [item for item, listed in zip(images, names, strict=True) if same(listed, name)]
        if len(found) > 1:
            raise InputError(f'{annotations} lists {len(found)} images named {name}. Give annotations of one of them.')
        if found:
            return found[0]
    if len(images) == 1:
        return images[0]
    some = ', '.join(names[:3]) + (' ...' if len(names) > 3 else '')
    raise InputError(
        f'{annotations} lists {len(images):,} images and none is named {name}, but {some or "nothing"}. Upload the '
        'frame under its name in the annotations.'
    )


def colour_of(prediction: Prediction) -> str:
    """Return the colour of a prediction: that of the class, or grey if it is rejected."""
    if not prediction.is_answered:
        return REJECTED
    return COLOURS[prediction.class_names.index(prediction.label) % len(COLOURS)]


def draw_boxes(frame: BoxedFrame, predictions: Sequence[Prediction], chosen: int) -> Image.Image:
    """Draw a frame with its numbered boxes, `ZOOM` times as large, the chosen box thicker."""
    drawing = frame.image.convert('RGB').resize((frame.image.width * ZOOM, frame.image.height * ZOOM))
    pen, font = ImageDraw.Draw(drawing), ImageFont.load_default(20)
    for index, (box, prediction) in enumerate(zip(frame.boxes, predictions, strict=True)):
        colour = colour_of(prediction)
        corners = (box.x * ZOOM, box.y * ZOOM, (box.x + box.w) * ZOOM - 1, (box.y + box.h) * ZOOM - 1)
        pen.rectangle(corners, outline=colour, width=7 if index == chosen else 3)
        text = str(index + 1) if prediction.is_answered else f'{index + 1}?'
        left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
        x, y = min(corners[0], drawing.width - right - 8), max(corners[1] - bottom - 6, 0)
        pen.rectangle((x, y, x + right - left + 8, y + bottom + 5), fill=colour)
        pen.text((x + 4 - left, y + 2), text, fill='#10141a', font=font)
    return drawing
