"""Convert the HIT-UAV data set to the folder layout of FLIR ADAS v1.3, with another split.

python train_scripts/convert_hit_uav.py --hit-uav HIT-UAV-Infrared-Thermal-Dataset --out thermal_uav

HIT-UAV (Suo et al., Scientific Data 2023, CC BY 4.0): https://github.com/suojiashun/HIT-UAV-Infrared-Thermal-Dataset.
Its three splits have neighbouring, nearly identical frames on different sides. Here all frames are pooled and split by
blocks of consecutive frame ids.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated

import tyro

from timm_convattn.entry_point import entry_point
from timm_convattn.errors import InputError
from timm_convattn.files import create_folder

CATEGORIES = {1: 'person', 2: 'bicycle', 3: 'car', 91: 'other vehicle'}  # FLIR's ids
FLIR_ID = {0: 1, 1: 3, 2: 2, 3: 91, 4: None}  # HIT-UAV's id -> FLIR's; 4, "DontCare", is left out
FILE_NAME = re.compile(r'[01]_(\d+)_\d+_\d_(\d+)\.jpg')  # night or day, altitude, camera angle, weather, frame id
BLOCK, VALIDATE_EVERY = 250, 5  # frame ids in a block; every fifth block is for validation


@dataclass(frozen=True)
class Args:
    """Options of the conversion."""

    hit_uav: Path
    """Folder of the download, which holds normal_json/{train,val,test,annotations}."""
    out: Path
    """Folder to write, new or empty."""
    altitudes: Annotated[tuple[int, int], tyro.conf.arg(metavar='FROM TO')] = (60, 90)
    """Lowest and highest altitude of the frames to keep, in metres. HIT-UAV has 60 to 130."""


@dataclass
class Frame:
    """A frame of HIT-UAV and its boxes."""

    path: Path
    altitude: int
    number: int
    width: int
    height: int
    boxes: list[tuple[int, list[int]]] = field(default_factory=list)
    """FLIR's category id, and x, y, width, height in pixels."""

    @property
    def name(self) -> str:
        """File name in the converted folder."""
        return f'thermal_8_bit/UAV_{self.number:05d}.jpeg'

    @property
    def is_validation(self) -> bool:
        """Whether the frame is in a block for validation."""
        return self.number // BLOCK % VALIDATE_EVERY == VALIDATE_EVERY - 1


def read_frames(folder: Path) -> list[Frame]:
    """Read the frames of all three splits, in the order of the annotations.

    Raises:
        InputError: If a file is missing or is not in the format of HIT-UAV.
    """
    root = folder / 'normal_json' if (folder / 'normal_json').is_dir() else folder
    frames = [frame for split in ('train', 'val', 'test') for frame in read_split(root, split)]
    missing = [str(frame.path) for frame in frames if not frame.path.is_file()]
    if missing:
        raise InputError(
            f'{len(missing)} frames that the annotations name are not on disk, the first: {", ".join(missing[:5])}. '
            'Download HIT-UAV again.'
        )
    if len({frame.number for frame in frames}) < len(frames):
        raise InputError(f'{root} has two frames with the same id, wanted unique ids. Download HIT-UAV again.')
    return frames


def read_split(root: Path, split: str) -> list[Frame]:
    """Read one annotation file of `normal_json`."""
    path = root / 'annotations' / f'{split}.json'
    try:
        content = json.loads(path.read_bytes())
        frames = {item['id']: read_image(root / split, item) for item in content['images']}
        for item in content['annotation']:
            category, box = FLIR_ID[item['category_id']], [int(value) for value in item['bbox']]
            if len(box) != 4 or box != item['bbox']:
                raise ValueError(f'a box is {item["bbox"]}')
            frame = frames[item['image_id']]
            if category is not None:
                frame.boxes.append((category, box))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"{path} could not be read as HIT-UAV's annotations ({type(error).__name__}: {error}), wanted those of the "
            'folder normal_json of its repository. Download HIT-UAV again, and name the folder that holds normal_json.'
        ) from error
    return list(frames.values())


def read_image(folder: Path, item: dict[str, object]) -> Frame:
    """Read one entry of `images`."""
    name, width, height = item['filename'], item['width'], item['height']
    found = FILE_NAME.fullmatch(str(name))
    if found is None or not isinstance(width, int) or not isinstance(height, int):
        raise ValueError(f'an image is {name!r} of {width} x {height}')
    return Frame(folder / found[0], int(found[1]), int(found[2]), width, height)


def write_split(folder: Path, frames: Iterable[Frame]) -> int:
    """Copy the frames of one split, write their annotations, and return the number of boxes."""
    (folder / 'thermal_8_bit').mkdir(parents=True)
    images, annotations, ids = [], [], count(1)
    for image_id, frame in enumerate(frames):
        shutil.copyfile(frame.path, folder / frame.name)
        size = {'width': frame.width, 'height': frame.height}
        images.append({'id': image_id, 'file_name': frame.name, **size, 'subdirs': '.', 'extra_info': {}})
        for category, (x, y, w, h) in frame.boxes:
            ids_and_box = {'id': next(ids), 'image_id': image_id, 'category_id': category, 'bbox': [x, y, w, h]}
            outline = {'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            extra = {'extra_info': {'human_annotated': True}}
            annotations.append({**ids_and_box, 'area': w * h, 'iscrowd': 0, **outline, **extra})
    document = {
        'info': {'description': 'HIT-UAV (Suo, Wang et al., CC BY 4.0) in the FLIR ADAS v1.3 layout'},
        'licenses': [{'id': 1, 'name': 'CC BY 4.0', 'url': 'https://creativecommons.org/licenses/by/4.0/'}],
        'categories': [{'id': key, 'name': name, 'supercategory': 'unknown'} for key, name in CATEGORIES.items()],
        'images': images,
        'annotations': annotations,
    }
    (folder / 'thermal_annotations.json').write_text(json.dumps(document))
    return len(annotations)


def main(args: Args) -> None:
    """Convert, and print the counts."""
    low, high = args.altitudes
    frames = [frame for frame in read_frames(args.hit_uav) if low <= frame.altitude <= high]
    splits = {name: [f for f in frames if f.is_validation == (name == 'val')] for name in ('train', 'val')}
    if not all(splits.values()):
        raise InputError(f'{args.hit_uav} has {len(frames)} frames from {low} to {high} m, too few for both splits.')
    with create_folder(args.out) as folder:
        boxes = {name: write_split(folder / name, chosen) for name, chosen in splits.items()}
    for name, chosen in splits.items():
        print(f'{args.out / name}: {len(chosen):,} frames, {boxes[name]:,} boxes')


if __name__ == '__main__':
    with entry_point():
        main(tyro.cli(Args, description=__doc__))
