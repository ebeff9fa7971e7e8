"""Training batches from the store beside timm's loader with PIL, over the same crops."""

from collections.abc import Callable
from typing import Any

import datasets
import timm
import torch
from torch.utils.data import DataLoader

from timm_convattn.benchmarks.measure import Growth, Row, growth, row_of, seconds_of
from timm_convattn.data.augment import Augment, AugmentAmounts, Normalize
from timm_convattn.data.crop_images import CropImages
from timm_convattn.data.samplers import EpochSampler
from timm_convattn.data.sources import open_crops
from timm_convattn.data.store import as_it_is, open_store

__all__ = ['measure_input']

IMG_SIZE, BATCH_SIZE = 60, 32
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def measure_input(
    seconds: float, data: str | None = None, shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
) -> tuple[list[Row], list[Growth]]:
    """Compare how many images of a training epoch one thread makes in a second: decoded, augmented, normalised.

    Args:
        seconds: How long each comparison takes at least.
        data: Folder of crops. None: the embedded thermal scenes.
        shares: Shares of the crops that the growth is fitted to.
    """
    crops = open_crops(data, ('train',))['train']
    few = crops.select(range(min(len(crops), 1024) // BATCH_SIZE * BATCH_SIZE))  # timm's loader drops the rest
    ours, theirs = stored_epoch(few), timms_epoch(few)
    ours(), theirs()  # fill the store
    times: list[tuple[float, float]] = []
    while len(times) < 3 or sum(mine + other for mine, other in times) < seconds:
        times.append((seconds_of(ours), seconds_of(theirs)))
    speeds = [(len(few) / mine, len(few) / other) for mine, other in times]
    row = row_of(f'epoch of {len(few)} crops at {IMG_SIZE} px', "timm's loader with PIL", speeds, 1.0, 'images/s')
    found: dict[float, float] = {}
    for share in shares:
        count = round(len(crops) * share)
        epoch = stored_epoch(crops, count)
        epoch()
        found[count] = min(seconds_of(epoch) for _ in range(7))
    return [row], [growth('time of a training epoch', 'crops', 's', found)]


def stored_epoch(crops: datasets.Dataset, count: int | None = None) -> Callable[[], None]:
    """Make a pass over crops, or the first of them, as fine-tuning makes it."""
    sampler = EpochSampler(count or len(crops), seed=0)
    store: Any = open_store(crops, (IMG_SIZE, IMG_SIZE))
    loader = DataLoader(store, batch_size=BATCH_SIZE, sampler=sampler, collate_fn=as_it_is)
    normalize = Normalize(MEAN, STD, Augment(AugmentAmounts(), seed=0))

    def run() -> None:
        for pixels, _, indices in loader:
            normalize(pixels, indices, epoch=0)

    return run


def timms_epoch(crops: datasets.Dataset) -> Callable[[], None]:
    """Make a pass over the crops by timm's loader, with its default augmentation for training."""
    loader = timm.data.create_loader(
        CropImages(crops, transform=torch.as_tensor, in_chans=3),
        input_size=(3, IMG_SIZE, IMG_SIZE),
        batch_size=BATCH_SIZE,
        is_training=True,
        mean=MEAN,
        std=STD,
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
        device=torch.device('cpu'),
    )

    def run() -> None:
        for _ in loader:
            pass

    return run
