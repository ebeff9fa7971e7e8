"""`timm-convattn data`: what is in a folder of frames, and what keeps crops from being built of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tqdm.auto import tqdm

from timm_convattn.data.classes import CLASS_OF_CATEGORY, CLASSES
from timm_convattn.data.flir import Box, FlirFolder, Frame, read_flir, read_frame
from timm_convattn.errors import InputError
from timm_convattn.tables import format_table
from timm_convattn.units import size

__all__ = ['Data']

SHOWN = 5  # frames of one kind of problem that are named
QUARTILES = (0, 25, 50, 75, 100)


@dataclass(frozen=True)
class Data:
    """Look into a FLIR folder, or a folder of crops: what is there, and what keeps crops from being built.

    $ timm-convattn data FLIR_ADAS_1_3
    $ timm-convattn data FLIR_ADAS_1_3 --check-images
    $ timm-convattn data crops/four_class

    The exit status is 1 if there is something that train_scripts/build_dataset.py would stop at.
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar='FOLDER')]]
    """Folder of a FLIR ADAS release (v1.3 or v2) or of frames laid out like one, or what build_dataset.py wrote."""
    check_images: bool = False
    """Decode every frame that has a box."""
    bits: Literal[8, 16] = 8
    """Look at the 8-bit frames that the annotations name, or at the 16-bit frames with the same stems."""

    def run(self) -> int:
        """Read, count, and say what is wrong."""
        if (self.folder / 'crops.json').is_file():
            print(describe_crops(self.folder))
            return 0
        flir = read_flir(self.folder, missing='skip', bits=self.bits)
        print(describe_frames(flir))
        problems = find_problems(flir)
        if self.check_images:
            problems += broken_frames(flir.frames, self.bits)
        print()
        if problems:
            print(f'problems that stop a build of crops: {len(problems)}')
            print('\n'.join(f'  {problem}' for problem in problems))
            return 1
        looked = (
            f'all {len(flir.frames):,} frames decode'
            if self.check_images
            else 'frames were not decoded (--check-images)'
        )
        print(f'no problem was found; {looked}')
        return 0


def describe_frames(flir: FlirFolder) -> str:
    """Say what a folder of frames holds."""
    origin = ', the starter thermal set' if flir.is_starter_set else ''
    parts = [f'{flir.root}: {flir.layout.name}{origin}', _splits(flir), _categories(flir), _classes(flir), _sides(flir)]
    dropped = [
        (name, f'{count:,}', reason)
        for name, split in flir.splits.items()
        for reason, count in sorted(split.dropped.items())
    ]
    if dropped:
        parts.append(format_table(('split', 'left out', 'boxes, because'), dropped, right=(1,)))
    return '\n\n'.join(parts)


def _splits(flir: FlirFolder) -> str:
    rows = []
    for name, split in flir.splits.items():
        sizes = Counter((frame.height, frame.width) for frame in split.frames).most_common()
        shown = ', '.join(f'{size(*where)} ({count:,})' for where, count in sizes[:3]) + (' ...' if sizes[3:] else '')
        boxes = sum(len(frame.boxes) for frame in split.frames)
        rows.append((name, f'{len(split.frames):,}', f'{boxes:,}', f'{len(split.missing):,}', shown))
    header = ('split', 'frames with boxes', 'boxes', 'frames not on disk', 'height x width')
    return format_table(header, rows, right=(1, 2, 3))


def _categories(flir: FlirFolder) -> str:
    """Count boxes by category, the most frequent first, and say what class each becomes."""
    counts = {name: Counter(box.category for box in _boxes(split.frames)) for name, split in flir.splits.items()}
    total = sum(counts.values(), Counter())
    rows = [
        (category, CLASS_OF_CATEGORY.get(category, '-'), *(f'{counts[name][category]:,}' for name in counts))
        for category, _ in total.most_common()
    ]
    return format_table(('category', 'class', *counts), rows, right=range(2, 2 + len(counts)))


def _classes(flir: FlirFolder) -> str:
    counts = {
        name: Counter(CLASS_OF_CATEGORY.get(box.category) for box in _boxes(split.frames))
        for name, split in flir.splits.items()
    }
    rows = [(label, *(f'{counts[name][label]:,}' for name in counts)) for label in CLASSES['four_class']]
    return format_table(('class', *counts), rows, right=range(1, 1 + len(counts)))


def _sides(flir: FlirFolder) -> str:
    """Give the quartiles of the side of boxes, the square root of their area."""
    sides: dict[str, list[float]] = {label: [] for label in CLASSES['four_class']}
    for box in _boxes(flir.frames):
        label = CLASS_OF_CATEGORY.get(box.category)
        if label is not None:
            sides[label].append((box.w * box.h) ** 0.5)
    rows = [
        (label, *(f'{value:.0f}' for value in np.percentile(values, QUARTILES)))
        for label, values in sides.items()
        if values
    ]
    header = ('side of boxes, pixels', 'smallest', 'quarter', 'half', 'three quarters', 'largest')
    return format_table(header, rows, right=range(1, 6))


def _boxes(frames: Sequence[Frame]) -> list[Box]:
    return [box for frame in frames for box in frame.boxes]


def find_problems(flir: FlirFolder) -> list[str]:
    """Say what would stop a build of crops, as far as the annotations show it."""
    problems = [
        f'{name}: {len(split.missing):,} annotated frames are not on disk: {_some(split.missing)}. Complete the '
        'folder, or build with --missing skip.'
        for name, split in flir.splits.items()
        if split.missing
    ]
    if not any(box.category in CLASS_OF_CATEGORY for box in _boxes(flir.frames)):
        problems.append(f'There is no box of {", ".join(CLASS_OF_CATEGORY)} to make a crop of.')
    return problems


def broken_frames(frames: Sequence[Frame], bits: Literal[8, 16]) -> list[str]:
    """Decode frames, and give what is said of those that cannot be."""
    problems = []
    for frame in tqdm(frames, desc='Decoding', unit='frame', leave=False, disable=None):
        try:
            read_frame(frame, (1.0, 99.0) if bits == 16 else None)
        except InputError as error:
            problems.append(str(error))
    shown = problems[:SHOWN]
    return shown + ([f'... and {len(problems) - SHOWN:,} more frames'] if problems[SHOWN:] else [])


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (' ...' if len(names) > SHOWN else '')


def describe_crops(folder: Path) -> str:
    """Say what `build_crops` wrote.

    Raises:
        InputError: If what reads crops is not installed, or they cannot be read.
    """
    try:
        from timm_convattn.data.crops import built_crops
    except ImportError as error:
        raise InputError(f"Crops need {error.name}: pip install 'timm-convattn[train]'.") from error
    made = built_crops(folder)
    if made is None:
        raise InputError(f'{folder} holds no crops.json: it was not built by build_dataset.py.')
    rows = [
        (name, *(f'{counts[label]:,}' for label in made.class_names), f'{sum(counts.values()):,}')
        for name, counts in made.counts.items()
    ]
    header = ('split', *made.class_names, 'crops')
    parts = [f'{folder}: crops of {made.origin}', format_table(header, rows, right=range(1, len(header)))]
    dropped = [(name, f'{n:,}', reason) for name, reasons in made.dropped.items() for reason, n in reasons.items()]
    if dropped:
        parts.append(format_table(('split', 'left out', 'boxes, because'), dropped, right=(1,)))
    options = ', '.join(f'{key} {value}' for key, value in made.options.items())
    return '\n\n'.join([*parts, f'built with {options}; datasets.load_dataset({str(folder)!r}) opens them'])
