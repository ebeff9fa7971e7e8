"""Frames and boxes of FLIR ADAS folders (v1.3 and v2), validated.

v1.3   <root>/{train,val,video}/thermal_annotations.json, thermal_8_bit/*.jpeg and thermal_16_bit/*.tiff
v2     <root>/{images_thermal_train,images_thermal_val,video_thermal_test}/coco.json, data/*.jpg and
       analyticsData/*.tiff

Annotations are in COCO format. Categories are matched by name, because the ids differ between the releases.
"""

import gc
import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image

from timm_convattn.data.images import MAX_PIXELS, decode_image
from timm_convattn.errors import InputError

__all__ = [
    'LAYOUTS',
    'Box',
    'FlirFolder',
    'Frame',
    'Layout',
    'Split',
    'read_annotations',
    'read_flir',
    'read_frame',
]

JsonObject = dict[str, object]
Value = TypeVar('Value')


@dataclass(frozen=True)
class Layout:
    """Names of the files of a FLIR ADAS release."""

    name: str
    splits: Mapping[str, str]  # split -> folder in the root
    annotations: str
    sixteen_bit: str  # folder of the 16-bit frames


LAYOUTS = (
    Layout(
        name='FLIR ADAS v1.3',
        splits={'train': 'train', 'validation': 'val', 'test': 'video'},
        annotations='thermal_annotations.json',
        sixteen_bit='thermal_16_bit',
    ),
    Layout(
        name='FLIR ADAS v2',
        splits={
            'train': 'images_thermal_train',
            'validation': 'images_thermal_val',
            'test': 'video_thermal_test',
        },
        annotations='coco.json',
        sixteen_bit='analyticsData',
    ),
)


@dataclass(frozen=True)
class Box:
    """One annotated object: whole pixels, clipped to its frame, at least one pixel wide and high."""

    category: str
    x: int
    y: int
    w: int
    h: int

    def cut(self, frame: Image.Image) -> Image.Image:
        """Return the part of the frame in the box."""
        return frame.crop((self.x, self.y, self.x + self.w, self.y + self.h))


@dataclass(frozen=True)
class Frame:
    """A thermal image and its boxes."""

    path: Path
    source: str  # path relative to the root, with forward slashes
    width: int
    height: int
    boxes: tuple[Box, ...]

    @property
    def stem(self) -> str:
        """File name without its extension."""
        return self.path.stem


@dataclass
class Split:
    """The frames with boxes of a split, in the order of the annotations, and counts of what was left out."""

    frames: list[Frame] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> number of boxes
    missing: list[str] = field(default_factory=list)  # frames with boxes that are not on disk


@dataclass(frozen=True)
class FlirFolder:
    """The annotations of a FLIR ADAS folder."""

    root: Path
    layout: Layout
    splits: dict[str, Split]

    @property
    def frames(self) -> list[Frame]:
        """Frames of all splits."""
        return [frame for split in self.splits.values() for frame in split.frames]

    @property
    def is_starter_set(self) -> bool:
        """Whether the frames are FLIR's own of v1.3, the paper's data, and not others in the same layout."""
        are_flirs = [frame.stem.startswith('FLIR_') for frame in self.frames]
        return self.layout is LAYOUTS[0] and bool(are_flirs) and all(are_flirs)


def read_flir(root: Path, missing: Literal['fail', 'skip'] = 'fail', bits: Literal[8, 16] = 8) -> FlirFolder:
    """Read the annotations of a FLIR ADAS folder and look for its frames; no frame is decoded.

    Boxes are clipped to their frames. Boxes that are empty, inverted, outside or invalid are dropped and counted.

    Args:
        root: Folder of the release.
        missing: What to do when annotated frames are not on disk.
        bits: Whether to use the 8-bit frames that the annotations name, or the 16-bit frames with the same stems.

    Returns:
        The frames with at least one box, by split, without splits that have no annotations.

    Raises:
        InputError: If the folder is missing or has neither layout, annotations are invalid or name a file outside their
            folder, or frames are missing and `missing` is 'fail'.
    """
    layout = _find_layout(root)
    splits = {}
    with _no_collection():
        for name, folder in layout.splits.items():
            path = root / folder / layout.annotations
            if path.is_file():
                splits[name] = _read_split(root, path, layout, bits)
    absent = [source for split in splits.values() for source in split.missing]
    if absent and missing == 'fail':
        raise InputError(
            f'{len(absent)} frames that the annotations name are not on disk, the first: {", ".join(absent[:5])}. '
            f'Complete {root}, or leave these frames out with --missing skip.'
        )
    return FlirFolder(root, layout, splits)


def read_annotations(path: Path, bits: Literal[8, 16] = 8) -> Split:
    """Read a file of COCO annotations, FLIR's or others, whose frames are in its folder.

    Raises:
        InputError: If the file is missing or invalid, or names a file outside its folder.
    """
    if not path.is_file():
        raise InputError(f'There is no file {path}, wanted COCO annotations, such as train/thermal_annotations.json.')
    layout = next((layout for layout in LAYOUTS if layout.annotations == path.name), LAYOUTS[0])
    with _no_collection():
        return _read_split(path.parent, path, layout, bits)


def _find_layout(root: Path) -> Layout:
    if not root.is_dir():
        raise InputError(f'{root} is not a folder, wanted the folder of a FLIR ADAS release.')
    for layout in LAYOUTS:
        if (root / layout.splits['train'] / layout.annotations).is_file():
            return layout
    looked_for = ' or '.join(f'{layout.splits["train"]}/{layout.annotations} ({layout.name})' for layout in LAYOUTS)
    seen = sorted(path.name for path in root.iterdir())
    raise InputError(
        f'{root} has neither FLIR layout: looked for {looked_for}; '
        f'saw {", ".join(seen[:8]) + (" ..." if len(seen) > 8 else "") if seen else "an empty folder"}. '
        'Use the folder that holds the train folder.'
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector, which would scan many new long-lived objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_split(root: Path, path: Path, layout: Layout, bits: int) -> Split:
    coco = _read_json(path)
    images, annotations, categories = (_list(coco, key, path) for key in ('images', 'annotations', 'categories'))
    names = {_get(item, 'id', int, path): _printable(_get(item, 'name', str, path)) for item in categories}
    sizes: dict[int, tuple[int, int]] = {}
    for item in images:
        image_id = _get(item, 'id', int, path)
        if image_id in sizes:
            raise InputError(f'{path}: two images have the id {image_id}. Ids must be unique.')
        sizes[image_id] = (_get(item, 'width', int, path), _get(item, 'height', int, path))

    split = Split()
    boxes: dict[int, list[Box]] = {image_id: [] for image_id in sizes}
    for item in annotations:
        image_id, box = _parse_box(item, names, sizes)
        if isinstance(box, Box):
            boxes[image_id].append(box)
        else:
            split.dropped[box] += 1

    resolved = path.parent.resolve()
    for item in images:
        image_id = _get(item, 'id', int, path)
        if boxes[image_id]:
            file_name = _get(item, 'file_name', str, path)
            if bits == 16:
                file_name = f'{layout.sixteen_bit}/{Path(file_name).stem}.tiff'
            frame, exists = _locate(file_name, path, resolved)
            source = frame.relative_to(root).as_posix()
            if exists:
                split.frames.append(Frame(frame, source, *sizes[image_id], tuple(boxes[image_id])))
            else:
                split.missing.append(source)
    return split


def _parse_box(
    item: JsonObject, names: Mapping[int, str], sizes: Mapping[int, tuple[int, int]]
) -> tuple[int, Box | str]:
    """Return the id of the image and the box, or the reason to drop it."""
    image_id, category_id = item.get('image_id'), item.get('category_id')
    if type(image_id) is not int or image_id not in sizes:
        return -1, 'box of an image that is not listed'
    category = names.get(category_id) if type(category_id) is int else None
    if category is None:
        return image_id, f'unknown category id {_printable(category_id)}'
    return image_id, _clip(category, item.get('bbox'), sizes[image_id])


def _locate(file_name: str, annotations: Path, resolved: Path) -> tuple[Path, bool]:
    """Return the path of a frame, and whether it is a file; `resolved` is the resolved folder of the annotations."""
    path = annotations.parent / file_name
    try:
        file_name.encode()  # a lone surrogate is valid in no file name, and cannot be printed
        is_inside, exists = path.resolve().is_relative_to(resolved), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, or a loop of links
        raise InputError(
            f'{annotations} names the file {_printable(file_name)!r}, which cannot be one ({error}).'
        ) from error
    if not is_inside:
        raise InputError(
            f'{annotations} names the file {_printable(file_name)!r}, which lies outside {annotations.parent}. '
            'Refused: annotations may only name files of their own folder.'
        )
    return path, exists


def _read_json(path: Path) -> JsonObject:
    try:
        coco = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} is not a complete JSON file ({error}). Unpack or download it again.') from error
    if not isinstance(coco, dict):
        raise InputError(f'{path} holds a {type(coco).__name__}, wanted a COCO object with images and annotations.')
    return coco


def _list(coco: JsonObject, key: str, path: Path) -> list[JsonObject]:
    items = coco.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f'{path} has no list of objects "{key}", which COCO annotations have. Is it the right file?')
    return items


def _get(item: JsonObject, key: str, kind: type[Value], path: Path) -> Value:
    value = item.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        seen, context = _printable(reprlib.repr(value)), _printable(item)
        raise InputError(f'{path}: "{key}" is {seen} in {context}, wanted {kind.__name__}.')
    return value


def _printable(value: object) -> str:
    """Return a short line that any terminal can show."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return ''.join(char if char.isprintable() else '?' for char in text[:80])


def _clip(category: str, bbox: object, size: tuple[int, int]) -> Box | str:
    """Return a box in whole pixels, clipped to its frame, or the reason to drop it."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)):
        return 'box that is not four numbers'
    x, y, w, h = bbox
    if w <= 0 or h <= 0:
        return 'empty or inverted box'
    left, top = math.floor(max(x, 0)), math.floor(max(y, 0))
    right, bottom = math.ceil(min(x + w, size[0])), math.ceil(min(y + h, size[1]))
    if right <= left or bottom <= top:
        return 'box outside its frame'
    return Box(category, left, top, right - left, bottom - top)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_PIXELS  # False for NaN


def read_frame(frame: Frame, percentiles: tuple[float, float] | None = None) -> Image.Image:
    """Decode a frame to 8 bits of grey.

    Args:
        frame: The frame.
        percentiles: For 16-bit frames, the percentiles of the counts that become 0 and 255.

    Returns:
        An image of mode L.

    Raises:
        InputError: If the file cannot be decoded, has another size than annotated, or has 16 bits and `percentiles` is
            None.
    """

    def check_size(image: Image.Image) -> None:
        if image.size != (frame.width, frame.height):
            raise InputError(
                f'{frame.source} has {image.width} x {image.height} pixels ({image.mode}), its annotations '
                f'{frame.width} x {frame.height}, so the boxes do not match. Use the frames of the original release.'
            )

    hint = 'Unpack it again, or leave it out with --missing skip.'
    return decode_image(frame.path, frame.source, 'L', percentiles, check=check_size, hint=hint)
