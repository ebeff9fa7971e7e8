"""`timm-convattn predict`: the classes of images, or of boxes in frames."""

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm

from timm_convattn.data.engines import map_ahead
from timm_convattn.data.images import scale_percentiles
from timm_convattn.environment import count_cores
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier, load_classifier
from timm_convattn_cli.commands import Predict
from timm_convattn_cli.images import ImageFile, decode, find_boxes, find_images
from timm_convattn_cli.rows import CsvRows, JsonRows, PredictionRow, Rows, TableRows

__all__ = ['run']


@dataclass
class Tally:
    """Counts of the results."""

    answers: Counter[str | None] = field(default_factory=Counter)
    """By class; None counts the rejected ones."""
    broken: int = 0
    """Files that could not be decoded."""

    def describe(self, reject_at: float | None, threshold: float, seconds: float) -> str:
        """Return the counts as one line."""
        total, rejected = sum(self.answers.values()), self.answers[None]
        counts = [f'{label} {count:,}' for label, count in self.answers.most_common(8) if label is not None]
        others = len(self.answers) - len(counts) - (None in self.answers)
        text = f'{total:,} classified in {seconds:.1f} s: {", ".join(counts) or "no answer"}'
        text += f', {others} more classes' if others else ''
        if reject_at is not None:
            text += f'; {rejected:,} rejected with a confidence below {threshold:.3f} (--reject-at {reject_at:g})'
        return text + (f'; {self.broken:,} files could not be decoded' if self.broken else '')


def run(options: Predict) -> int:
    """Classify, print a row for each image or box, and a summary on standard error."""
    check(options)
    if options.boxes is not None:
        files = find_boxes(options.paths, options.boxes, options.bits)
    else:
        files = [ImageFile(path) for path in find_images(options.paths)]
    threads = options.threads or count_cores()
    torch.set_num_threads(threads)
    classifier = load_classifier(options.model, options.reject_at, options.device)
    tally, started = Tally(), time.monotonic()
    rows = choose_rows(options, classifier, files)
    for line in itertools.chain(rows.header(), map(rows.line, classify(options, classifier, files, threads, tally))):
        print(line)
    sys.stdout.flush()
    print(tally.describe(options.reject_at, classifier.threshold, time.monotonic() - started), file=sys.stderr)
    return 1 if tally.broken else 0


def check(options: Predict) -> None:
    """Check that options are in range and do not contradict each other.

    Raises:
        InputError: If they are invalid.
    """
    for name, value in {'top': options.top, 'batch-size': options.batch_size, 'threads': options.threads}.items():
        if value is not None and value < 1:
            raise InputError(f'--{name} is {value}, it must be at least 1.')
    if options.json and options.csv:
        raise InputError('--json and --csv were both given. Use one of them.')
    if not options.paths and options.boxes is None:
        raise InputError('There is nothing to classify. Name images, folders, or annotations with --boxes.')
    scale_percentiles(np.zeros((1, 1)), *options.percentiles)


def choose_rows(options: Predict, classifier: Classifier, files: list[ImageFile]) -> Rows:
    """Return the output format."""
    top, with_boxes = min(options.top, len(classifier.class_names)), options.boxes is not None
    if options.json:
        return JsonRows(top)
    if options.csv:
        return CsvRows(top, with_boxes)
    return TableRows(top, with_boxes, files, classifier.class_names)


def classify(
    options: Predict, classifier: Classifier, files: list[ImageFile], threads: int, tally: Tally
) -> Iterator[PredictionRow]:
    """Yield the rows, classified in batches and counted in `tally`."""
    percentiles = options.percentiles if options.bits == 16 else None

    def read(file: ImageFile) -> tuple[ImageFile, list[torch.Tensor] | InputError]:
        return file, decode(file, classifier, percentiles)

    # rows on a terminal show the progress; None: no bar where standard error is not a terminal
    bar = tqdm(files, desc='Classifying', unit='image', leave=False, disable=sys.stdout.isatty() or None)
    pool = ThreadPoolExecutor(threads)
    decoded = (read(file) for file in bar) if threads == 1 else map_ahead(pool, read, bar, 2 * options.batch_size)
    with bar, pool, closing(decoded):  # closed first, which cancels what still waits
        inputs = _inputs(decoded, tally)
        while batch := list(itertools.islice(inputs, options.batch_size)):
            predictions = classifier.classify_batch(torch.stack([pixels for *_, pixels in batch]))
            for (file, box, _), prediction in zip(batch, predictions, strict=True):
                tally.answers[prediction.label if prediction.is_answered else None] += 1
                yield PredictionRow(file, box, prediction)


def _inputs(
    decoded: Iterable[tuple[ImageFile, list[torch.Tensor] | InputError]], tally: Tally
) -> Iterator[tuple[ImageFile, int, torch.Tensor]]:
    """Yield file, index of the box and (C, H, W) input; report the files that could not be decoded."""
    for file, pixels in decoded:
        if isinstance(pixels, InputError):
            tally.broken += 1
            tqdm.write(f'error: {pixels}', file=sys.stderr)
        else:
            yield from ((file, index, tensor) for index, tensor in enumerate(pixels))
