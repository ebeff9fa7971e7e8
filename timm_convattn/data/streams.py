"""Crops streamed from the Hub or a folder, for data sets that are larger than the disk."""

from collections.abc import Callable, Iterator

import datasets
import torch
from PIL import Image

from timm_convattn.data.images import decode_crop
from timm_convattn.data.sources import check_columns, explain_source, locate_source
from timm_convattn.errors import InputError

__all__ = ['CropStream', 'StreamedImages', 'open_stream']

SHUFFLE_BUFFER = 10_000  # encoded crops, of about a kilobyte each


class CropStream:
    """A split of a data set that is read from its start each time.

    Args:
        rows: Rows with `image`, encoded, and `label`.
        labels: Labels of all rows, in their order.
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
        """Return a stream of the first crops."""
        return CropStream(self.rows.take(count), self.labels[:count])

    def load(self) -> datasets.Dataset:
        """Read all crops into memory."""
        rows = datasets.Dataset.from_list(list(self.rows), features=self.features)
        return rows.cast_column('image', datasets.Image())


def open_stream(source: str | None, split: str, configuration: str | None = None) -> CropStream:
    """Open a split of a data set of crops as a stream; only its labels are read at once.

    Args:
        source: A folder that `build_dataset.py` wrote, the id of a data set on the Hub, or None for the embedded
            thermal scenes.
        split: The split.
        configuration: Configuration of a data set on the Hub. None: its default one.

    Raises:
        InputError: If there is no such data set, it cannot be reached, or the split or a column is missing.
    """
    name = locate_source(source)
    with explain_source(name):
        builder = datasets.load_dataset_builder(name, configuration)
        rows = builder.as_streaming_dataset(split)
        check_columns(rows, f'{name}, split {split}')
        only = {'columns': ['label']} if hasattr(builder.config, 'columns') else {}  # Parquet then skips the images
        label_rows = datasets.load_dataset_builder(name, configuration, **only).as_streaming_dataset(split)
        labels = [row['label'] for row in label_rows.select_columns(['label'])]
    if not labels:
        raise InputError(f'{name} has no crops in {split}.')
    rows = rows.select_columns(['image', 'label']).cast_column('image', datasets.Image(decode=False))
    return CropStream(rows, labels)


class StreamedImages(torch.utils.data.IterableDataset[tuple[torch.Tensor, int, int]]):
    """The crops of a stream as (image, label, index), shuffled within a buffer, with a transform applied to the image.

    The order depends on (seed, epoch) alone; the index is the position of the crop in the stream.

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
        """Set the epoch of the next iteration."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        for row in self.rows:
            image = decode_crop(row['image'], self.mode, row['index'])
            yield self.transform(image), row['label'], row['index']


def _number(row: dict[str, object], index: int) -> dict[str, object]:
    return {**row, 'index': index}
