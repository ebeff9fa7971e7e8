"""The crops of a study: which they are, told by what they hold and not by where they lie."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from timm_convattn.data.crops import CLASSES, Classes, built_crops, narrow_crops
from timm_convattn.data.sources import class_names_of, content_hash, describe_origin, open_crops, scene_crops
from timm_convattn.data.splits import hold_out_frames
from timm_convattn.errors import InputError

__all__ = ['StudyData', 'open_study_data']

SPLITS = ('train', 'validation')


@dataclass(frozen=True)
class StudyData:
    """A data set of crops that runs are made on."""

    name: str
    """Short, for the names of files: of its folder or repository, and of its classes where they are not four."""
    source: str | None
    """For finetune.py: a folder, an id on the Hub, or None for the embedded scenes."""
    configuration: str | None
    """Configuration of a data set on the Hub."""
    classes: str
    """four_class or two_class."""
    origin: str
    """Whose frames the crops are cut from."""
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    """Split -> class -> crops."""
    sha256: str
    """Of all crops and labels of both splits."""
    validation_sha256: str
    """Of those of the validation split, as results files name it."""
    kept: Mapping[float | None, Path] | None = None
    """Where only evidence of the crops is available: share of held-out frames (None: the validation split) -> Parquet
    file with labels and frames."""

    @property
    def num_train(self) -> int:
        """Crops to train on."""
        return sum(self.counts['train'].values())

    @property
    def title(self) -> str:
        """Name the crops for people."""
        return f'{self.name} ({self.origin}), {self.classes}'

    def open(self) -> datasets.DatasetDict:
        """Open the splits train and validation."""
        return open_crops(self.source, SPLITS, self.configuration)

    def labels_and_frame_names(self, hold_out: float | None = None) -> tuple[npt.NDArray[np.int64], list[str] | None]:
        """Return label and frame of crops, None for frames without names.

        Args:
            hold_out: Share of the training frames that are held out, for their crops. None: the validation split.

        Raises:
            InputError: If only evidence is available, and it does not have these crops.
        """
        if self.kept is not None:
            if hold_out not in self.kept:
                raise InputError(f'The evidence of {self.name} has no crops of a share of {hold_out} held-out frames.')
            with pq.ParquetFile(self.kept[hold_out]) as file:
                table = file.read(columns=['label', 'frame'])
            frames = table['frame'].to_pylist()
            return table['label'].to_numpy().copy(), None if None in frames else frames
        opened = self.open()
        crops = opened['validation'] if hold_out is None else hold_out_frames(opened['train'], hold_out)[1]
        return np.asarray(crops['label'][:]), list(crops['source'][:]) if 'source' in crops.features else None

    def validation_labels_and_frames(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return label and number of the frame of each crop of the validation split; unnamed frames hold one crop."""
        labels, frames = self.labels_and_frame_names()
        return labels, np.arange(len(labels)) if frames is None else np.unique(frames, return_inverse=True)[1]


def open_study_data(source: str | None, classes: Classes, folder: Path) -> StudyData:
    """Find the crops of a set of classes.

    Args:
        source: A folder of crops of four classes, the id of a data set on the Hub with a configuration for each set of
            classes, or None for the embedded scenes.
        classes: The set of classes.
        folder: Where crops of fewer classes than `source` has are written.

    Raises:
        InputError: If the crops cannot be opened, or are of other classes.
    """
    local = scene_crops() if source is None else Path(source)
    place, configuration = source, None if local.is_dir() else classes
    crops, hashes = _open(place, configuration)
    if class_names_of(crops['train']) != list(CLASSES[classes]) and built_crops(local) is not None:
        place = str(folder / f'{classes}-{_joint(hashes)[:12]}')
        if built_crops(Path(place)) is None:
            narrow_crops(local, Path(place), classes)
        crops, hashes = _open(place, None)
    names = tuple(class_names_of(crops['train']))
    if names != CLASSES[classes]:
        raise InputError(
            f'{source} has the classes {", ".join(names)}, wanted {", ".join(CLASSES[classes])} ({classes}).'
        )
    return StudyData(
        name=_name(source, classes),
        source=place,
        configuration=configuration,
        classes=classes,
        origin=describe_origin(source),
        class_names=names,
        counts={split: _count(crops[split], names) for split in SPLITS},
        sha256=_joint(hashes),
        validation_sha256=hashes['validation'],
    )


def _open(source: str | None, configuration: str | None) -> tuple[datasets.DatasetDict, dict[str, str]]:
    crops = open_crops(source, SPLITS, configuration)
    return crops, {split: content_hash(crops[split]) for split in SPLITS}


def _name(source: str | None, classes: Classes) -> str:
    place = 'thermal_scenes' if source is None else re.sub(r'\W+', '_', Path(source).name)
    return place if classes == 'four_class' else f'{place}_{classes}'


def _joint(hashes: dict[str, str]) -> str:
    return hashlib.sha256(''.join(hashes.values()).encode()).hexdigest()


def _count(crops: Any, names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(crops['label'][:], minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))
