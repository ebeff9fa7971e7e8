"""`timm-convattn predict`: what a model says of images, or of boxes in frames."""

import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from tqdm.auto import tqdm

from timm_convattn.data.images import scale_percentiles
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier
from timm_convattn_cli.arguments import Bits, ModelName, Percentiles
from timm_convattn_cli.pictures import Picture, find_boxes, find_images, map_ahead, read_picture
from timm_convattn_cli.rows import CsvRows, JsonRows, Row, Rows, TableRows

__all__ = ['Predict']


@dataclass(frozen=True)
class Predict:
    """Classify images, or the boxes of frames.

    $ timm-convattn predict runs/NAME crop.png
    $ timm-convattn predict runs/NAME crops/ --csv > answers.csv
    $ timm-convattn predict runs/NAME crops/ --reject-at 0.01
    $ timm-convattn predict runs/NAME FLIR/val/thermal_8_bit/FLIR_08863.jpeg --boxes FLIR/val/thermal_annotations.json

    An image is taken whole, and should show one object; --boxes says where the objects of a frame are. Rows go to
    standard output, all else to standard error. Files that cannot be decoded are named there, the others are still
    classified, and the exit status is 1.
    """

    model: ModelName
    paths: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar='[PATH ...]')]] = ()
    """Images, and folders of images (with all folders below). With --boxes, frames; none means all that have a box."""
    boxes: Annotated[Path | None, tyro.conf.arg(metavar='JSON')] = None
    """COCO annotations of the frames, as FLIR has them: each box is classified."""
    top: Annotated[int, tyro.conf.arg(metavar='N')] = 4
    """Classes to show of each image, the likeliest."""
    reject_at: Annotated[float | None, tyro.conf.arg(metavar='RATE')] = None
    """Answer only where the share of wrong answers is promised to be at most this (models trained with --hold-out)."""
    json: bool = False
    """Print JSON Lines: one object a line, whose label is null where the model does not answer."""
    csv: bool = False
    """Print CSV with a header, whose label is empty where the model does not answer."""
    bits: Bits = 8
    percentiles: Percentiles = (1.0, 99.0)
    batch_size: Annotated[int, tyro.conf.arg(metavar='N')] = 64
    """Images that go through the network at a time."""
    threads: Annotated[int | None, tyro.conf.arg(metavar='N')] = None
    """Threads on a CPU. None: all cores."""
    device: Annotated[str, tyro.conf.arg(metavar='DEVICE')] = 'cpu'
    """Device of the network, such as cuda."""

    def run(self) -> int:
        """Classify, print a row for each image or box, and say on standard error what came of it."""
        self.check()
        pictures = self.find_pictures()
        threads = self.threads or _count_cores()
        torch.set_num_threads(threads)
        classifier = Classifier.load(self.model, self.reject_at, self.device)
        tally, started = Tally(), time.monotonic()
        rows = self.choose_rows(classifier, pictures)
        for line in itertools.chain(rows.header(), map(rows.line, self.classify(classifier, pictures, threads, tally))):
            print(line)
        sys.stdout.flush()
        print(tally.describe(self.reject_at, classifier.threshold, time.monotonic() - started), file=sys.stderr)
        return 1 if tally.broken else 0

    def check(self) -> None:
        """Refuse options that are out of range or contradict each other.

        Raises:
            InputError: Naming the options.
        """
        for name, value in {'top': self.top, 'batch-size': self.batch_size, 'threads': self.threads}.items():
            if value is not None and value < 1:
                raise InputError(f'--{name} is {value}, it must be at least 1.')
        if self.json and self.csv:
            raise InputError('--json and --csv both say how to print: give one of them.')
        if not self.paths and self.boxes is None:
            raise InputError('There is nothing to classify. Name images, folders, or annotations with --boxes.')
        scale_percentiles(np.zeros((1, 1)), *self.percentiles)

    def find_pictures(self) -> list[Picture]:
        """Find what to classify, before the model is loaded."""
        if self.boxes is not None:
            return find_boxes(self.paths, self.boxes, self.bits)
        return [Picture(path) for path in find_images(self.paths)]

    def choose_rows(self, classifier: Classifier, pictures: list[Picture]) -> Rows:
        """Choose how rows are printed."""
        top, with_boxes = min(self.top, len(classifier.class_names)), self.boxes is not None
        if self.json:
            return JsonRows(top)
        if self.csv:
            return CsvRows(top, with_boxes)
        return TableRows(top, with_boxes, pictures, classifier.class_names)

    def classify(self, classifier: Classifier, pictures: list[Picture], threads: int, tally: 'Tally') -> Iterator[Row]:
        """Classify in batches, and count."""
        read = partial(read_picture, classifier=classifier, percentiles=self.percentiles if self.bits == 16 else None)
        # rows on a terminal are progress enough; None: no bar where standard error is no terminal
        bar = tqdm(pictures, desc='Classifying', unit='image', leave=False, disable=sys.stdout.isatty() or None)
        with bar:
            decoded = map_ahead(read, bar, workers=threads, ahead=2 * self.batch_size)
            for batch in _batches(_inputs(decoded, tally), self.batch_size):
                predictions = classifier.classify_batch(torch.stack([item.pixels for item in batch]))
                for item, prediction in zip(batch, predictions, strict=True):
                    tally.answers[prediction.label if prediction.is_answered else None] += 1
                    yield Row(item.picture, item.box, prediction)


class Input(NamedTuple):
    """One image, or one box of a frame, as the network takes it."""

    picture: Picture
    box: int
    """Which of the picture's boxes."""
    pixels: torch.Tensor


@dataclass
class Tally:
    """What came of the images."""

    answers: Counter[str | None] = field(default_factory=Counter)
    """By class; None stands for those that were not answered."""
    broken: int = 0
    """Files that could not be decoded."""

    def describe(self, reject_at: float | None, threshold: float, seconds: float) -> str:
        """Say it in a few words."""
        total, rejected = sum(self.answers.values()), self.answers[None]
        counts = [f'{label} {count:,}' for label, count in self.answers.most_common(8) if label is not None]
        others = len(self.answers) - len(counts) - (None in self.answers)
        said = f'{total:,} classified in {seconds:.1f} s: {", ".join(counts) or "no answer"}'
        said += f', {others} more classes' if others else ''
        if reject_at is not None:
            said += f'; {rejected:,} rejected, of a confidence under {threshold:.3f} (--reject-at {reject_at:g})'
        return said + (f'; {self.broken:,} files could not be decoded' if self.broken else '')


def _inputs(decoded: Iterable[tuple[Picture, list[torch.Tensor] | InputError]], tally: Tally) -> Iterator[Input]:
    """Give what could be decoded, and name what could not."""
    for picture, pixels in decoded:
        if isinstance(pixels, InputError):
            tally.broken += 1
            tqdm.write(f'error: {pixels}', file=sys.stderr)
        else:
            yield from (Input(picture, index, tensor) for index, tensor in enumerate(pixels))


def _batches(items: Iterable[Input], batch_size: int) -> Iterator[list[Input]]:
    items = iter(items)
    while batch := list(itertools.islice(items, batch_size)):
        yield batch


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
