"""The images, and the boxes in them, that a command line names; and their pixels, decoded ahead of the network."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from timm_convattn.data.flir import Box, Frame, read_annotations, read_frame
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier

__all__ = ['ImageFile', 'decode', 'find_boxes', 'find_images', 'some']


SHOWN = 5  # names in a message


@dataclass(frozen=True)
class ImageFile:
    """An image file to classify, as a whole or box by box."""

    path: Path
    frame: Frame | None = None
    """Its annotations, if its boxes are classified."""

    @property
    def boxes(self) -> Sequence[Box | None]:
        """The boxes, or one None for the image as a whole."""
        return [None] if self.frame is None else self.frame.boxes


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the named image files and, sorted, those in named folders and their subfolders.

    Other files in these folders are named on standard error, except hidden ones.

    Raises:
        InputError: If there is no such file or folder, or a folder holds no image.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f'There is no file or folder {path}.')
    return [image for path in paths for image in (_images_below(path) if path.is_dir() else [path])]


def _images_below(folder: Path) -> list[Path]:
    Image.init()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        files += [Path(parent, name) for name in names if not name.startswith('.')]
    images = sorted(path for path in files if path.suffix.lower() in suffixes)
    others = sorted(str(path) for path in files if path.suffix.lower() not in suffixes)
    if not images:
        raise InputError(f'{folder} holds no images; it holds {some(others) if others else "no files at all"}.')
    if others:
        print(f'skipped, not images ({len(others):,}): {some(others)}', file=sys.stderr)
    return images


def find_boxes(paths: Sequence[Path], annotations: Path, bits: Literal[8, 16]) -> list[ImageFile]:
    """Return the frames that have boxes in COCO annotations.

    Args:
        paths: Frames, or folders of frames. Without any: every frame that has a box.
        annotations: The file, next to or above the frames.
        bits: 16 selects the 16-bit frames with the same stems.

    Raises:
        InputError: If the annotations cannot be read, or none of the frames has a box there.
    """
    split = read_annotations(annotations, bits)
    for reason, count in sorted(split.dropped.items()):
        print(f'left out: {reason} ({count:,})', file=sys.stderr)
    if not paths:
        if split.missing:
            print(f'frames that are not on disk ({len(split.missing):,}): {some(split.missing)}', file=sys.stderr)
        if not split.frames:
            raise InputError(f'{annotations} has no frame with a box that is on disk.')
        return [ImageFile(frame.path, frame) for frame in split.frames]
    annotated = {frame.path.resolve(): frame for frame in split.frames}
    images = find_images(paths)
    without = [str(image) for image in images if image.resolve() not in annotated]
    if len(without) == len(images):
        raise InputError(f'{annotations} has no box of {some(without)}. Are these annotations those of the frames?')
    if without:
        print(f'frames without a box ({len(without):,}): {some(without)}', file=sys.stderr)
    return [ImageFile(image, annotated[image.resolve()]) for image in images if image.resolve() in annotated]


def some(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    return ', '.join(names[:SHOWN]) + (' ...' if len(names) > SHOWN else '')


def decode(
    file: ImageFile, classifier: Classifier, percentiles: tuple[float, float] | None
) -> list[torch.Tensor] | InputError:
    """Return a (C, H, W) input for each box, or for the image as a whole; or the reason why it cannot be decoded."""
    try:
        if file.frame is None:
            return [classifier.to_tensor(classifier.open(file.path, percentiles))]
        frame = read_frame(file.frame, percentiles)
    except InputError as error:
        return error
    return [classifier.to_tensor(box.cut(frame)) for box in file.frame.boxes]
