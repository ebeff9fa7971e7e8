"""Which images, and which boxes in them, a command line means; and their pixels, decoded ahead of the network."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from PIL import Image

from timm_convattn.data.flir import Box, Frame, read_annotations, read_frame
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier

__all__ = ['Picture', 'find_boxes', 'find_images', 'map_ahead', 'read_picture']

Item = TypeVar('Item')
Result = TypeVar('Result')

SHOWN = 5  # files that a message names


@dataclass(frozen=True)
class Picture:
    """An image file to classify, as a whole or box by box."""

    path: Path
    frame: Frame | None = None
    """What annotations say of it, where its boxes are meant."""

    @property
    def boxes(self) -> Sequence[Box | None]:
        """The boxes, or None for the whole image."""
        return [None] if self.frame is None else self.frame.boxes


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Find image files: those named, and those in folders that are named, sorted, with all folders below.

    Files in folders whose ending is no image's are left out, and named on standard error; hidden ones without a word.

    Raises:
        InputError: If there is no such file or folder, or a folder holds no image.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f'There is no file or folder {path}.')
    return [image for path in paths for image in (_images_below(path) if path.is_dir() else [path])]


def _images_below(folder: Path) -> list[Path]:
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = sorted(
        Path(place, name)
        for place, folders, names in os.walk(folder)
        if not _hide(folders)
        for name in names
        if not name.startswith('.')
    )
    images = [path for path in files if path.suffix.lower() in endings]
    others = [str(path) for path in files if path.suffix.lower() not in endings]
    if not images:
        raise InputError(f'{folder} holds no images; it holds {_some(others) if others else "no files at all"}.')
    if others:
        print(f'left out, since these are no images ({len(others):,}): {_some(others)}', file=sys.stderr)
    return images


def _hide(folders: list[str]) -> bool:
    """Take hidden folders out of those that are walked through next."""
    folders[:] = [name for name in folders if not name.startswith('.')]
    return False


def find_boxes(paths: Sequence[Path], annotations: Path, bits: Literal[8, 16]) -> list[Picture]:
    """Find the boxes of frames in COCO annotations.

    Args:
        paths: Frames, or folders of frames. None at all: every frame that has a box.
        annotations: The file, beside or above the frames.
        bits: Whether the frames of 16 bits are meant, which have the same stems.

    Raises:
        InputError: If the annotations cannot be read, or none of the frames has a box there.
    """
    split = read_annotations(annotations, bits)
    for reason, count in sorted(split.dropped.items()):
        print(f'left out: {reason} ({count:,})', file=sys.stderr)
    if not paths:
        if split.missing:
            print(f'frames that are not on disk ({len(split.missing):,}): {_some(split.missing)}', file=sys.stderr)
        if not split.frames:
            raise InputError(f'{annotations} has no frame with a box that is on disk.')
        return [Picture(frame.path, frame) for frame in split.frames]
    known = {frame.path.resolve(): frame for frame in split.frames}
    images = find_images(paths)
    without = [str(image) for image in images if image.resolve() not in known]
    if len(without) == len(images):
        raise InputError(f'{annotations} has no box of {_some(without)}. Is it the file beside these frames?')
    if without:
        print(f'frames without a box ({len(without):,}): {_some(without)}', file=sys.stderr)
    return [Picture(image, known[image.resolve()]) for image in images if image.resolve() in known]


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (' ...' if len(names) > SHOWN else '')


def read_picture(
    picture: Picture, classifier: Classifier, percentiles: tuple[float, float] | None
) -> list[torch.Tensor] | InputError:
    """Decode what a classifier takes: (C, H, W) for each box, or for the whole; or say why it cannot be decoded."""
    try:
        if picture.frame is None:
            return [classifier.to_tensor(classifier.open(picture.path, percentiles))]
        frame = read_frame(picture.frame, percentiles)
    except InputError as error:
        return error
    return [classifier.to_tensor(box.cut(frame)) for box in picture.frame.boxes]


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Apply a function to items in their order, in threads that work ahead of who takes the results.

    Args:
        function: What to do.
        items: What to do it to.
        workers: Threads. With one, all is done when it is asked for, which is fastest on one core.
        ahead: Results that may wait.
    """
    if workers == 1:
        yield from ((item, function(item)) for item in items)
        return
    pool, waiting = ThreadPoolExecutor(workers), deque[tuple[Item, Future[Result]]]()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > ahead:
                done, future = waiting.popleft()
                yield done, future.result()
        yield from ((done, future.result()) for done, future in waiting)
    finally:
        pool.shutdown(cancel_futures=True)
