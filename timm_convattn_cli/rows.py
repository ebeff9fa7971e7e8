"""What a model says of each image, as rows of a table, of CSV, or of JSON."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from timm_convattn.data.flir import Box
from timm_convattn.inference import Prediction
from timm_convattn.tables import format_row
from timm_convattn_cli.pictures import Picture

__all__ = ['CsvRows', 'JsonRows', 'Row', 'Rows', 'TableRows']


@dataclass(frozen=True)
class Row:
    """What a model says of an image, or of a box in it."""

    picture: Picture
    index: int
    """Which of the picture's boxes."""
    prediction: Prediction

    @property
    def box(self) -> Box | None:
        """The box, None for a whole image."""
        return self.picture.boxes[self.index]


class Rows(Protocol):
    """A way to print rows."""

    def header(self) -> Iterator[str]:
        """Give the lines before the first row."""

    def line(self, row: Row) -> str:
        """Give the line of a row."""


class TableRows:
    """Aligned columns, whose widths are known before the first image is classified.

    Args:
        top: Classes of each row.
        with_boxes: Whether rows are boxes.
        pictures: All that rows can be of.
        class_names: All that can be said of them.
    """

    def __init__(self, top: int, with_boxes: bool, pictures: Sequence[Picture], class_names: Sequence[str]) -> None:
        self.top = top
        self.with_boxes = with_boxes
        self.titles = ['image', *(('box x, y, w, h', 'annotated') if with_boxes else ()), 'answer', 'confidence']
        boxes = [box for picture in pictures for box in picture.boxes if box is not None]
        texts = [
            [str(picture.path) for picture in pictures],
            *(([_box(box) for box in boxes], [box.category for box in boxes]) if with_boxes else ()),
            [*class_names, REJECTED],
            [],
        ]
        self.widths = [max(map(len, [title, *column])) for title, column in zip(self.titles, texts, strict=True)]

    def header(self) -> Iterator[str]:
        """Give the titles."""
        yield format_row([*self.titles, 'likely as well'], [*self.widths, 0])

    def line(self, row: Row) -> str:
        """Give a row; a rejected one shows the likeliest class among the others."""
        likely, sure = row.prediction.top(self.top), row.prediction.is_answered
        box = row.box
        cells = [
            str(row.picture.path),
            *((_box(box), box.category) if box is not None else ()),
            row.prediction.label if sure else REJECTED,
            f'{row.prediction.confidence:.3f}',
        ]
        others = '  '.join(f'{name} {probability:.3f}' for name, probability in (likely[1:] if sure else likely))
        return format_row([*cells, others], [*self.widths, 0], right=(len(cells) - 1,))


REJECTED = 'rejected'


class CsvRows:
    """Comma-separated values, as spreadsheets and pandas read them.

    Args:
        top: Classes of each row.
        with_boxes: Whether rows are boxes.
    """

    def __init__(self, top: int, with_boxes: bool) -> None:
        self.top = top
        self.with_boxes = with_boxes

    def header(self) -> Iterator[str]:
        """Give the names of the columns."""
        likely = [f'{what}_{place}' for place in range(1, self.top + 1) for what in ('class', 'probability')]
        boxes = ['x', 'y', 'w', 'h', 'category'] if self.with_boxes else []
        yield self._line(['image', *boxes, 'label', 'confidence', 'is_answered', *likely])

    def line(self, row: Row) -> str:
        """Give a row."""
        box, prediction = row.box, row.prediction
        place = [] if box is None else [box.x, box.y, box.w, box.h, box.category]
        label = prediction.label if prediction.is_answered else ''
        likely = [cell for name, value in prediction.top(self.top) for cell in (name, f'{value:.6f}')]
        answered = str(prediction.is_answered).lower()
        return self._line([row.picture.path, *place, label, f'{prediction.confidence:.6f}', answered, *likely])

    def _line(self, cells: Sequence[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator='').writerow(cells)
        return text.getvalue()


class JsonRows:
    """JSON Lines: an object a line.

    Args:
        top: Classes of each row.
    """

    def __init__(self, top: int) -> None:
        self.top = top

    def header(self) -> Iterator[str]:
        """Give nothing: there is no line before the first row."""
        yield from ()

    def line(self, row: Row) -> str:
        """Give a row."""
        box, prediction = row.box, row.prediction
        place = {} if box is None else {'box': [box.x, box.y, box.w, box.h], 'category': box.category}
        return json.dumps(
            {
                'image': str(row.picture.path),
                **place,
                'label': prediction.label if prediction.is_answered else None,
                'confidence': round(prediction.confidence, 6),
                'is_answered': prediction.is_answered,
                'top': {name: round(value, 6) for name, value in prediction.top(self.top)},
            },
            ensure_ascii=False,
        )


def _box(box: Box) -> str:
    return f'{box.x}, {box.y}, {box.w}, {box.h}'
