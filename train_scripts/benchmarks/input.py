"""Training batches from the store against timm's loader with PIL, over the same crops."""

from collections.abc import Callable
from typing import Any

import datasets
import timm
import torch
from torch.utils.data import DataLoader

from benchmarks.measure import Measurements, fit_growth, seconds_of, summarize
from timm_convattn.data.augment import Augment, AugmentAmounts, Normalize
from timm_convattn.data.crop_images import CropImages
from timm_convattn.data.samplers import EpochSampler
from timm_convattn.data.sources import open_crops
from timm_convattn.data.store import identity_collate, open_store

__all__ = ['measure_input']

IMG_SIZE, BATCH_SIZE = 60, 32
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def measure_input(
    seconds: float, data: str | None = None, shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
) -> Measurements:
    """Compare how many training images one thread decodes, augments and normalizes per second.

    Args:
        seconds: Minimum duration of the comparison.
        data: Folder of crops. None: the embedded thermal scenes.
        shares: Fractions of the crops that the growth is fitted to.
    """
    crops = open_crops(data, ('train',))['train']
    few = crops.select(
        range(min(len(crops), 1024) // BATCH_SIZE * BATCH_SIZE)
    )  # timm's loader drops the incomplete batch
    ours, theirs = stored_epoch(few), timm_epoch(few)
    ours(), theirs()  # fill the store
    times: list[tuple[float, float]] = []
    while len(times) < 3 or sum(mine + other for mine, other in times) < seconds:
        times.append((seconds_of(ours), seconds_of(theirs)))
    speeds = [(len(few) / mine, len(few) / other) for mine, other in times]
    comparison = summarize(
        f'epoch of {len(few)} crops at {IMG_SIZE} px', "timm's loader with PIL", speeds, 1.0, 'images/s'
    )
    found: dict[float, float] = {}
    for share in shares:
        count = round(len(crops) * share)
        epoch = stored_epoch(crops, count)
        epoch()
        found[count] = min(seconds_of(epoch) for _ in range(7))
    return [comparison], [fit_growth('time of a training epoch', 'crops', 's', found)]


def stored_epoch(crops: datasets.Dataset, count: int | None = None) -> Callable[[], None]:
    """Return a pass over crops, or the first of them, as in fine-tuning."""
    sampler = EpochSampler(count or len(crops), seed=0)
    store: Any = open_store(crops, (IMG_SIZE, IMG_SIZE))
    loader = DataLoader(store, batch_size=BATCH_SIZE, sampler=sampler, collate_fn=identity_collate)
    normalize = Normalize(MEAN, STD, Augment(AugmentAmounts(), seed=0))

    def run() -> None:
        for pixels, _, indices in loader:
            normalize(pixels, indices, epoch=0)

    return run


def timm_epoch(crops: datasets.Dataset) -> Callable[[], None]:
    """Return a pass over crops by timm's loader, with its default training augmentation."""
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
