"""Crops resized once: a memory-mapped array of grey pixels from which batches are sliced.

Decoding and resizing are most of the input's cost, and their result never changes. The store does both once for each
size and caches the pixels under a hash of everything that they depend on.
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

__all__ = ['StoredCrops', 'identity_collate', 'open_store', 'store_path']

VERSION = 1  # incremented when the same crops get other pixels

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class StoredCrops(torch.utils.data.Dataset[Batch]):
    """Batches of (pixels, labels, indices), sliced from a store.

    A `DataLoader` fetches batches with `__getitems__`, which need no collation: pass `collate_fn=identity_collate`.

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
        """Return a batch: (B, 1, H, W) uint8, (B,) labels, (B,) the indices. Indices past the last crop wrap around."""
        chosen = torch.tensor(indices)
        rows = chosen % len(self)
        return torch.from_numpy(self.pixels[rows.numpy()]).unsqueeze(1), self.labels[rows], chosen


def identity_collate(batch: Any) -> Any:
    """Return the batch unchanged."""
    return batch


def open_store(crops: datasets.Dataset, size: tuple[int, int], interpolation: str = 'bilinear') -> StoredCrops:
    """Open the store of crops at a size; create it if it is not in the cache.

    Args:
        crops: A data set with columns `image` and `label`.
        size: Height and width, in pixels.
        interpolation: Interpolation, as timm names it.

    Returns:
        The crops, squashed to the size, in their order.

    Raises:
        InputError: If a crop cannot be decoded, or the disk of the cache is full.
    """
    path = store_path(crops, size, interpolation)
    if not path.exists():
        with explain_full_disk(path.parent, 'Make room, name another cache with XDG_CACHE_HOME, or use --plain-input.'):
            _create(path, crops, ResizeToPixels(size, interpolation))
    return StoredCrops(np.load(path, mmap_mode='r'), crops['label'][:])


def store_path(crops: datasets.Dataset, size: tuple[int, int], interpolation: str) -> Path:
    """Return the path of a store, whose name is a hash of everything that its pixels depend on."""
    key = f'{VERSION} {content_hash(crops)} {size[0]}x{size[1]} {interpolation}'
    return cache_folder() / 'stores' / f'{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy'


def _create(path: Path, crops: datasets.Dataset, resize: ResizeToPixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', delete=False) as file:
        temporary = Path(file.name)
    try:
        _fill(temporary, crops, resize)
        temporary.replace(path)  # processes that create the same store at once write the same bytes
    finally:
        temporary.unlink(missing_ok=True)


def _fill(path: Path, crops: datasets.Dataset, resize: ResizeToPixels) -> None:
    height, width = resize.size
    pixels = np.lib.format.open_memmap(path, mode='w+', dtype=np.uint8, shape=(len(crops), height, width))
    if hasattr(os, 'posix_fallocate'):  # else a full disk kills the process when it writes to the mapped file
        with path.open('r+b') as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    images: Any = crops.select_columns(['image']).cast_column('image', datasets.Image(decode=False))
    for index, row in enumerate(tqdm(images, desc='Resizing crops', unit='crop', leave=False, disable=None)):
        pixels[index] = resize(decode_crop(row['image'], 'L', index))[0].numpy()
    pixels.flush()
    path.chmod(0o644)  # temporary files are made for their owner alone
