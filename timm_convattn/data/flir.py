"""FLIR ADAS folders (v1.3 and v2) into frames and boxes, checked.

v1.3   <root>/{train,val,video}/thermal_annotations.json beside thermal_8_bit/*.jpeg and thermal_16_bit/*.tiff
v2     <root>/{images_thermal_train,images_thermal_val,video_thermal_test}/coco.json beside data/*.jpg and
       analyticsData/*.tiff

Both annotation files are COCO. Categories go by their name, since the ids differ between the releases.
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
from typing import Any, Literal

from PIL import Image

from timm_convattn.data.images import MAX_PIXELS, decode_image, scale_percentiles
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
    'scale_percentiles',
]


@dataclass(frozen=True)
class Layout:
    """How a release of FLIR ADAS lies on disk."""

    name: str
    splits: Mapping[str, str]  # our split -> folder below the root
    annotations: str
    sixteen_bit: str


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
        """Cut the object out of its frame."""
        return frame.crop((self.x, self.y, self.x + self.w, self.y + self.h))


@dataclass(frozen=True)
class Frame:
    """One thermal image and its objects."""

    path: Path
    source: str  # the path below the root, with forward slashes
    width: int
    height: int
    boxes: tuple[Box, ...]

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


@dataclass
class Split:
    """The frames of one split that hold objects, in the order of the annotations, and what was left out."""

    frames: list[Frame] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> boxes, or frames where it says so
    missing: list[str] = field(default_factory=list)  # frames with objects that the disk lacks


@dataclass(frozen=True)
class FlirFolder:
    """A FLIR ADAS folder, read."""

    root: Path
    layout: Layout
    splits: dict[str, Split]

    @property
    def frames(self) -> list[Frame]:
        """The frames of all splits."""
        return [frame for split in self.splits.values() for frame in split.frames]

    @property
    def is_starter_set(self) -> bool:
        """Whether this is FLIR's own v1.3, the paper's data, and not another camera's frames in the same layout."""
        named = [frame.stem.startswith('FLIR_') for frame in self.frames]
        return self.layout is LAYOUTS[0] and bool(named) and all(named)


def read_flir(root: Path, missing: Literal['fail', 'skip'] = 'fail', bits: Literal[8, 16] = 8) -> FlirFolder:
    """Read the annotations of a FLIR ADAS folder and check them against the disk; no frame is decoded.

    Boxes are clipped to their frames. Boxes that are empty, inverted, outside or not numbers are dropped and counted.

    Args:
        root: The folder of the release.
        missing: What to do when annotated frames are not on disk.
        bits: Whether to use the 8-bit frames that the annotations name, or the 16-bit frames with the same stems.

    Returns:
        The frames with at least one object, by split; splits that the folder lacks are left out.

    Raises:
        InputError: If the folder is missing or of neither layout, an annotation file is broken or names a file
            outside its folder, or frames are missing and `missing` is 'fail'.
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
    """Read one file of COCO annotations, FLIR's or another's, whose frames lie below its folder.

    Args:
        path: The file.
        bits: As in `read_flir`.

    Raises:
        InputError: If the file is missing or broken, or names a file outside its folder.
    """
    if not path.is_file():
        raise InputError(f'There is no file {path}, wanted COCO annotations, such as train/thermal_annotations.json.')
    layout = next((layout for layout in LAYOUTS if layout.annotations == path.name), LAYOUTS[0])
    with _no_collection():
        return _read_split(path.parent, path, layout, bits)


def _find_layout(root: Path) -> Layout:
    if not root.is_dir():
        raise InputError(f'{root} is not a folder. Give the folder of a FLIR ADAS release.')
    for layout in LAYOUTS:
        if (root / layout.splits['train'] / layout.annotations).is_file():
            return layout
    looked_for = ' or '.join(f'{layout.splits["train"]}/{layout.annotations} ({layout.name})' for layout in LAYOUTS)
    seen = sorted(path.name for path in root.iterdir())
    raise InputError(
        f'{root} is of neither FLIR layout: looked for {looked_for}; '
        f'saw {", ".join(seen[:8]) + (" ..." if len(seen) > 8 else "") if seen else "an empty folder"}. '
        'Give the folder that holds the train folder.'
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through many new objects, again and again, of which none is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_split(root: Path, annotations: Path, layout: Layout, bits: int) -> Split:
    coco = _read_json(annotations)
    images, objects, categories = (
        _list_of_dicts(coco, key, annotations) for key in ('images', 'annotations', 'categories')
    )
    names = {
        _get(item, 'id', int, annotations): _printable(_get(item, 'name', str, annotations)) for item in categories
    }
    sizes: dict[int, tuple[int, int]] = {}
    for item in images:
        image_id = _get(item, 'id', int, annotations)
        if image_id in sizes:
            raise InputError(f'{annotations}: two images have the id {image_id}. Ids must be unique.')
        sizes[image_id] = (_get(item, 'width', int, annotations), _get(item, 'height', int, annotations))

    split = Split()
    boxes: dict[int, list[Box]] = {image_id: [] for image_id in sizes}
    for item in objects:
        image_id, category_id = item.get('image_id'), item.get('category_id')
        if type(image_id) is not int or image_id not in sizes:
            split.dropped['box of an image that is not listed'] += 1
            continue
        category = names.get(category_id) if type(category_id) is int else None
        if category is None:
            split.dropped[f'unknown category id {_printable(category_id)}'] += 1
            continue
        box = _clip(category, item.get('bbox'), sizes[image_id])
        if isinstance(box, Box):
            boxes[image_id].append(box)
        else:
            split.dropped[box] += 1

    resolved = annotations.parent.resolve()
    for item in images:
        image_id = item['id']
        if boxes[image_id]:
            file_name = _get(item, 'file_name', str, annotations)
            if bits == 16:
                file_name = f'{layout.sixteen_bit}/{Path(file_name).stem}.tiff'
            path, is_there = _locate(file_name, annotations, resolved)
            source = path.relative_to(root).as_posix()
            if is_there:
                split.frames.append(Frame(path, source, *sizes[image_id], tuple(boxes[image_id])))
            else:
                split.missing.append(source)
    return split


def _locate(file_name: str, annotations: Path, resolved: Path) -> tuple[Path, bool]:
    """Give the path of a frame that annotations name, and whether it is a file; `resolved` is their folder."""
    path = annotations.parent / file_name
    try:
        file_name.encode()  # half a surrogate pair can be no file's name, and cannot be shown
        is_inside, is_there = path.resolve().is_relative_to(resolved), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a NUL, through a ring of links
        raise InputError(
            f'{annotations} names the file {_printable(file_name)!r}, which cannot be one ({error}).'
        ) from error
    if not is_inside:
        raise InputError(
            f'{annotations} names the file {_printable(file_name)!r}, which lies outside {annotations.parent}. '
            'Refused: annotations may only name files of their own folder.'
        )
    return path, is_there


def _read_json(path: Path) -> dict[str, Any]:
    try:
        coco = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} is no complete JSON file ({error}). Unpack or download it again.') from error
    if not isinstance(coco, dict):
        raise InputError(f'{path} holds a {type(coco).__name__}, wanted a COCO object with images and annotations.')
    return coco


def _list_of_dicts(coco: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    items = coco.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f'{path} has no list of objects "{key}", which COCO annotations have. Is it the right file?')
    return items


def _get(item: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    value = item.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        seen, where = _printable(reprlib.repr(value)), _printable(item)
        raise InputError(f'{path}: "{key}" is {seen} in {where}, wanted {kind.__name__}.')
    return value


def _printable(value: Any) -> str:
    """Show what annotations say in a line that any terminal can show, whatever it is."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return ''.join(char if char.isprintable() else '?' for char in text[:80])


def _clip(category: str, bbox: Any, size: tuple[int, int]) -> Box | str:
    """Clip a box to its frame, in whole pixels that cover it; or say why there is nothing left of it."""
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


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_PIXELS  # false for NaN, too


def read_frame(frame: Frame, percentiles: tuple[float, float] | None = None) -> Image.Image:
    """Decode a frame to 8 bits of grey.

    Args:
        frame: The frame.
        percentiles: For 16-bit frames, the percentiles of the frame's counts that become 0 and 255.

    Returns:
        An image of mode L.

    Raises:
        InputError: If the file cannot be decoded, is of another size than its annotations say, or has 16 bits and
            no `percentiles` are given.
    """

    def has_the_size(image: Image.Image) -> None:
        if image.size != (frame.width, frame.height):
            raise InputError(
                f'{frame.source} is {image.width} x {image.height} pixels ({image.mode}), its annotations say '
                f'{frame.width} x {frame.height}: the boxes would cut out the wrong places. '
                'Use the frames of the original release.'
            )

    hint = 'Unpack it again, or leave it out with --missing skip.'
    return decode_image(frame.path, frame.source, 'L', percentiles, check=has_the_size, hint=hint)
