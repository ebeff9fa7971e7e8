"""`timm-convattn data`: the contents of a folder of frames or crops, and the problems that stop a build of crops."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from timm_convattn.data.classes import CLASS_OF_CATEGORY, CLASSES
from timm_convattn.data.flir import Box, FlirFolder, Frame, read_flir, read_frame
from timm_convattn.errors import InputError
from timm_convattn_cli.commands import Data
from timm_convattn_cli.images import SHOWN, some
from timm_convattn_cli.text import format_table, size

__all__ = ['broken_frames', 'describe_crops', 'describe_frames', 'find_problems', 'run']

QUARTILES = (0, 25, 50, 75, 100)


def run(options: Data) -> int:
    """Print the contents and the problems."""
    if (options.folder / 'crops.json').is_file():
        print(describe_crops(options.folder))
        return 0
    flir = read_flir(options.folder, missing='skip', bits=options.bits)
    print(describe_frames(flir) + '\n')
    problems = find_problems(flir)
    if options.check_images:
        problems += broken_frames(flir.frames, options.bits)
    if problems:
        print(f'problems that stop a build of crops: {len(problems)}')
        print('\n'.join(f'  {problem}' for problem in problems))
        return 1
    decoded = f'all {len(flir.frames):,} frames decode' if options.check_images else 'frames were not decoded'
    print(f'no problem found; {decoded}' + ('' if options.check_images else ' (--check-images decodes them)'))
    return 0


def describe_frames(flir: FlirFolder) -> str:
    """Return the contents of a folder of frames as text."""
    origin = ', the starter thermal set' if flir.is_starter_set else ''
    categories = _count(flir, lambda box: box.category)
    classes = _count(flir, lambda box: CLASS_OF_CATEGORY.get(box.category))
    total = sum(categories.values(), Counter[str | None]())
    parts = [
        f'{flir.root}: {flir.layout.name}{origin}',
        _splits(flir),
        format_table(
            ('category', 'class', *categories),
            [
                (str(name), CLASS_OF_CATEGORY.get(str(name), '-'), *(f'{of[name]:,}' for of in categories.values()))
                for name, _ in total.most_common()
            ],
            right=range(2, 2 + len(categories)),
        ),
        format_table(
            ('class', *classes),
            [(label, *(f'{of[label]:,}' for of in classes.values())) for label in CLASSES['four_class']],
            right=range(1, 1 + len(classes)),
        ),
        _sides(flir),
        *_dropped({name: split.dropped for name, split in flir.splits.items()}),
    ]
    return '\n\n'.join(parts)


def _count(flir: FlirFolder, key: Callable[[Box], str | None]) -> dict[str, Counter[str | None]]:
    return {name: Counter(map(key, _boxes(split.frames))) for name, split in flir.splits.items()}


def _splits(flir: FlirFolder) -> str:
    rows = []
    for name, split in flir.splits.items():
        sizes = Counter((frame.height, frame.width) for frame in split.frames).most_common()
        shown = ', '.join(f'{size(*side)} ({count:,})' for side, count in sizes[:3]) + (' ...' if sizes[3:] else '')
        counts = (len(split.frames), len(_boxes(split.frames)), len(split.missing))
        rows.append((name, *(f'{count:,}' for count in counts), shown))
    header = ('split', 'frames with boxes', 'boxes', 'frames not on disk', 'height x width')
    return format_table(header, rows, right=(1, 2, 3))


def _sides(flir: FlirFolder) -> str:
    """Return the quartiles of the side of the boxes, the square root of their area."""
    sides: dict[str, list[float]] = {label: [] for label in CLASSES['four_class']}
    for box in _boxes(flir.frames):
        if box.category in CLASS_OF_CATEGORY:
            sides[CLASS_OF_CATEGORY[box.category]].append((box.w * box.h) ** 0.5)
    rows = [
        (label, *(f'{value:.0f}' for value in np.percentile(values, QUARTILES)))
        for label, values in sides.items()
        if values
    ]
    header = ('side of boxes, pixels', 'smallest', 'quarter', 'half', 'three quarters', 'largest')
    return format_table(header, rows, right=range(1, 6))


def _dropped(dropped: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the table of the boxes left out, by split and reason, in a list that is empty if there are none."""
    rows = [(split, f'{n:,}', reason) for split, reasons in dropped.items() for reason, n in sorted(reasons.items())]
    return [format_table(('split', 'left out', 'boxes, because'), rows, right=(1,))] if rows else []


def _boxes(frames: Iterable[Frame]) -> list[Box]:
    return [box for frame in frames for box in frame.boxes]


def find_problems(flir: FlirFolder) -> list[str]:
    """Return the problems in the annotations that would stop a build of crops."""
    problems = [
        f'{name}: {len(split.missing):,} annotated frames are not on disk: {some(split.missing)}. Complete the '
        'folder, or build with --missing skip.'
        for name, split in flir.splits.items()
        if split.missing
    ]
    if not any(box.category in CLASS_OF_CATEGORY for box in _boxes(flir.frames)):
        problems.append(f'There is no box of {", ".join(CLASS_OF_CATEGORY)} to make a crop of.')
    return problems


def broken_frames(frames: Sequence[Frame], bits: Literal[8, 16]) -> list[str]:
    """Decode frames and return the errors."""
    problems = []
    for frame in tqdm(frames, desc='Decoding', unit='frame', leave=False, disable=None):
        try:
            read_frame(frame, (1.0, 99.0) if bits == 16 else None)
        except InputError as error:
            problems.append(str(error))
    return problems[:SHOWN] + ([f'... and {len(problems) - SHOWN:,} more frames'] if problems[SHOWN:] else [])


def describe_crops(folder: Path) -> str:
    """Return the contents of a folder that `build_crops` wrote as text.

    Raises:
        InputError: If the libraries that read crops are not installed, or the crops cannot be read.
    """
    try:
        from timm_convattn.data.crops import built_crops
    except ImportError as error:
        raise InputError(f"Crops need {error.name}: pip install 'timm-convattn[train]'.") from error
    crops = built_crops(folder)
    if crops is None:
        raise InputError(f'{folder} holds no crops.json: it was not built by build_dataset.py.')
    rows = [
        (name, *(f'{counts[label]:,}' for label in crops.class_names), f'{sum(counts.values()):,}')
        for name, counts in crops.counts.items()
    ]
    header = ('split', *crops.class_names, 'crops')
    options = ', '.join(f'{key} {value}' for key, value in crops.options.items())
    parts = [
        f'{folder}: crops of {crops.origin}',
        format_table(header, rows, right=range(1, len(header))),
        *_dropped(crops.dropped),
        f'built with {options}; datasets.load_dataset({str(folder)!r}) opens them',
    ]
    return '\n\n'.join(parts)
