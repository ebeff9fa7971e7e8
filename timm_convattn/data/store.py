"""Crops resized once: a memory-mapped array of grey pixels from which batches are sliced.

Decoding and resizing a crop costs far more than everything else that training does to it, and gives the same pixels
every time. The store does it once for each size and keeps the result in the cache, under a name made of everything
that the pixels depend on.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from timm_convattn.data.crop_images import ResizeToPixels
from timm_convattn.data.images import decode_crop
from timm_convattn.data.sources import cache_folder, content_hash
from timm_convattn.files import explain_full_disk

__all__ = ['StoredCrops', 'as_it_is', 'open_store', 'store_path']

VERSION = 1  # counts up with every change of what the same crops become


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class StoredCrops(torch.utils.data.Dataset[Batch]):
    """Batches of (pixels, labels, indices), sliced from a store.

    A `DataLoader` asks it for whole batches (`__getitems__`), which need no collation: give it `collate_fn=as_it_is`.

    Args:
        pixels: (N, H, W) uint8
        labels: (N,)
    """

    def __init__(self, pixels: npt.NDArray[np.uint8], labels: Sequence[int]) -> None:
        self.pixels = pixels
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Slice a batch: (B, 1, H, W) uint8, (B,), (B,). Indices past the last crop begin anew."""
        chosen = torch.tensor(indices)
        places = chosen % len(self)
        return torch.from_numpy(self.pixels[places.numpy()]).unsqueeze(1), self.labels[places], chosen


def as_it_is(batch: Any) -> Any:
    """Collate nothing: the batch is one."""
    return batch


def open_store(crops: datasets.Dataset, size: tuple[int, int], interpolation: str = 'bilinear') -> StoredCrops:
    """Open the store of some crops at a size; fill it where the cache lacks it.

    Args:
        crops: A data set with columns `image` and `label`.
        size: Height and width, in pixels.
        interpolation: How to resize, as timm names it.

    Returns:
        The crops, squashed to the size, in their order.

    Raises:
        InputError: If a crop cannot be decoded, or the cache has no room.
    """
    path = store_path(crops, size, interpolation)
    if not path.exists():
        with explain_full_disk(path.parent, 'Make room, name another cache with XDG_CACHE_HOME, or use --plain-input.'):
            _create(path, crops, ResizeToPixels(size, interpolation))
    return StoredCrops(np.load(path, mmap_mode='r'), crops['label'][:])


def store_path(crops: datasets.Dataset, size: tuple[int, int], interpolation: str) -> Path:
    """Name the file of a store by all that its pixels depend on."""
    made_of = f'{VERSION} {content_hash(crops)} {size[0]}x{size[1]} {interpolation}'
    return cache_folder() / 'stores' / f'{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.npy'


def _create(path: Path, crops: datasets.Dataset, resize: ResizeToPixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', delete=False) as beside:
        pass
    try:
        _fill(Path(beside.name), crops, resize)
        Path(beside.name).replace(path)  # two processes that fill it at once write the same
    finally:
        Path(beside.name).unlink(missing_ok=True)


def _fill(path: Path, crops: datasets.Dataset, resize: ResizeToPixels) -> None:
    height, width = resize.size
    pixels = np.lib.format.open_memmap(path, mode='w+', dtype=np.uint8, shape=(len(crops), height, width))
    if hasattr(os, 'posix_fallocate'):  # a mapped file that finds no room ends the process without a word
        with path.open('r+b') as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    images: Any = crops.select_columns(['image']).cast_column('image', datasets.Image(decode=False))
    crops_in_order = iter(tqdm(images, desc='Resizing crops', unit='crop', leave=False, disable=None))
    for index in range(len(crops)):
        pixels[index] = resize(decode_crop(next(crops_in_order)['image'], 'L', index))[0].numpy()
    pixels.flush()
    os.chmod(path, 0o644)  # noqa: PTH101  a temporary file is for its owner alone
