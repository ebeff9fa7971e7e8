"""Crops that are read while they are used, from the Hub or from a folder: they never lie on this disk as a whole."""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import torch
from PIL import Image

from timm_convattn.data.images import decode_crop
from timm_convattn.data.sources import check_columns, explain_source, locate_source
from timm_convattn.errors import InputError

__all__ = ['CropStream', 'StreamedImages', 'open_stream']

SHUFFLE_BUFFER = 10_000  # encoded crops, of a kilobyte or so each


class CropStream:
    """A split of a data set that can be read from its beginning, as often as wanted.

    Args:
        rows: Columns `image`, encoded, and `label`.
        labels: All labels, in their order.
    """

    def __init__(self, rows: datasets.IterableDataset, labels: list[int]) -> None:
        self.rows = rows
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def features(self) -> datasets.Features:
        """The columns."""
        return self.rows.features

    def take(self, count: int) -> 'CropStream':
        """Give the first crops."""
        return CropStream(self.rows.take(count), self.labels[:count])

    def load(self) -> datasets.Dataset:
        """Read all of it into memory."""
        return datasets.Dataset.from_list(list(self.rows), features=self.features).cast_column(
            'image', datasets.Image()
        )


def open_stream(source: str | None, split: str, configuration: str | None = None) -> CropStream:
    """Open a split of a data set of crops as a stream. Of the crops themselves nothing is read yet but the labels.

    Args:
        source: A folder that `build_dataset.py` wrote, the id of a data set on the Hub, or None for the embedded
            thermal scenes.
        split: The split.
        configuration: Which configuration of a data set on the Hub, its default one if None.

    Raises:
        InputError: If there is no such data set, it cannot be reached, or it lacks the split, a column or class names.
    """
    name = locate_source(source)
    with explain_source(name):
        builder = datasets.load_dataset_builder(name, configuration)
        rows = builder.as_streaming_dataset(split)
        check_columns(rows, f'{name}, split {split}')
        some = {'columns': ['label']} if hasattr(builder.config, 'columns') else {}  # Parquet reads no others then
        labels = datasets.load_dataset_builder(name, configuration, **some).as_streaming_dataset(split)
        counted = [row['label'] for row in labels.select_columns(['label'])]
    if not counted:
        raise InputError(f'{name} has no crops in {split}.')
    rows = rows.select_columns(['image', 'label']).cast_column('image', datasets.Image(decode=False))
    return CropStream(rows, counted)


class StreamedImages(torch.utils.data.IterableDataset[tuple[torch.Tensor, int, int]]):
    """The crops of a stream as (image, label, index), shuffled within a buffer, the image put through a transform.

    The order depends on (seed, epoch) alone; the index is the crop's place in the stream.

    Args:
        crops: The stream.
        transform: From a PIL image (mode L or RGB) to a tensor.
        in_chans: 1 for grey images, 3 for RGB (a grey crop three times).
        seed: Seed of the order.
    """

    def __init__(
        self, crops: CropStream, transform: Callable[[Image.Image], torch.Tensor], in_chans: int, seed: int
    ) -> None:
        columns = datasets.Features({**crops.features, 'index': datasets.Value('int64')})
        numbered = crops.rows.map(_number, with_indices=True, features=columns)
        self.rows = numbered.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.mode = {1: 'L', 3: 'RGB'}[in_chans]
        self.length = len(crops)
        self.transform = transform

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        for row in self.rows:
            image = decode_crop(row['image'], self.mode, row['index'])
            yield self.transform(image), row['label'], row['index']


def _number(row: dict[str, Any], index: int) -> dict[str, Any]:
    return {**row, 'index': index}
