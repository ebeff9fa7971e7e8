"""Predictions as rows of a table, of CSV, or of JSON Lines."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from timm_convattn.data.flir import Box
from timm_convattn.inference import Prediction
from timm_convattn_cli.images import ImageFile

__all__ = ['CsvRows', 'JsonRows', 'PredictionRow', 'Rows', 'TableRows']

REJECTED = 'rejected'


@dataclass(frozen=True)
class PredictionRow:
    """The prediction for an image, or for a box in it."""

    file: ImageFile
    index: int
    """Index of the box."""
    prediction: Prediction

    @property
    def box(self) -> Box | None:
        """The box, None for an image as a whole."""
        return self.file.boxes[self.index]


class Rows(Protocol):
    """An output format."""

    def header(self) -> Iterator[str]:
        """Yield the lines before the first row."""

    def line(self, row: PredictionRow) -> str:
        """Return the line of a row."""


class TableRows:
    """Aligned columns, whose widths are computed before the first image is classified.

    Args:
        top: Number of classes of each row.
        with_boxes: Whether rows are boxes.
        files: All files that will be classified.
        class_names: All classes.
    """

    def __init__(self, top: int, with_boxes: bool, files: Sequence[ImageFile], class_names: Sequence[str]) -> None:
        self.top = top
        boxes = [box for file in files for box in file.boxes if box is not None]
        columns = {'image': [str(file.path) for file in files]}
        if with_boxes:
            columns |= {'box x, y, w, h': [_box(box) for box in boxes], 'annotated': [box.category for box in boxes]}
        columns |= {'answer': [*class_names, REJECTED], 'confidence': []}
        self.widths = {title: max(map(len, [title, *cells])) for title, cells in columns.items()}

    def header(self) -> Iterator[str]:
        """Yield the titles."""
        yield self._line([*self.widths], 'other classes')

    def line(self, row: PredictionRow) -> str:
        """Return a row; that of a rejected image lists the most probable class among the others."""
        top, is_answered, box = row.prediction.top(self.top), row.prediction.is_answered, row.box
        cells = [
            str(row.file.path),
            *((_box(box), box.category) if box is not None else ()),
            row.prediction.label if is_answered else REJECTED,
            f'{row.prediction.confidence:.3f}'.rjust(self.widths['confidence']),
        ]
        return self._line(cells, '  '.join(f'{name} {value:.3f}' for name, value in (top[1:] if is_answered else top)))

    def _line(self, cells: Sequence[str], others: str) -> str:
        aligned = [cell.ljust(width) for cell, width in zip(cells, self.widths.values(), strict=True)]
        return '  '.join([*aligned, others]).rstrip()


class CsvRows:
    """Comma-separated values.

    Args:
        top: Number of classes of each row.
        with_boxes: Whether rows are boxes.
    """

    def __init__(self, top: int, with_boxes: bool) -> None:
        self.top = top
        self.with_boxes = with_boxes

    def header(self) -> Iterator[str]:
        """Yield the names of the columns."""
        top = [f'{column}_{rank}' for rank in range(1, self.top + 1) for column in ('class', 'probability')]
        boxes = ['x', 'y', 'w', 'h', 'category'] if self.with_boxes else []
        yield _csv_line(['image', *boxes, 'label', 'confidence', 'is_answered', *top])

    def line(self, row: PredictionRow) -> str:
        """Return a row."""
        box, prediction = row.box, row.prediction
        boxes = [] if box is None else [box.x, box.y, box.w, box.h, box.category]
        label = prediction.label if prediction.is_answered else ''
        top = [cell for name, value in prediction.top(self.top) for cell in (name, f'{value:.6f}')]
        answered = str(prediction.is_answered).lower()
        return _csv_line([row.file.path, *boxes, label, f'{prediction.confidence:.6f}', answered, *top])


class JsonRows:
    """JSON Lines: an object a line.

    Args:
        top: Number of classes of each row.
    """

    def __init__(self, top: int) -> None:
        self.top = top

    def header(self) -> Iterator[str]:
        """Yield nothing."""
        yield from ()

    def line(self, row: PredictionRow) -> str:
        """Return a row."""
        box, prediction = row.box, row.prediction
        return json.dumps(
            {
                'image': str(row.file.path),
                **({} if box is None else {'box': [box.x, box.y, box.w, box.h], 'category': box.category}),
                'label': prediction.label if prediction.is_answered else None,
                'confidence': round(prediction.confidence, 6),
                'is_answered': prediction.is_answered,
                'top': {name: round(value, 6) for name, value in prediction.top(self.top)},
            },
            ensure_ascii=False,
        )


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='').writerow(cells)
    return text.getvalue()


def _box(box: Box) -> str:
    return f'{box.x}, {box.y}, {box.w}, {box.h}'
