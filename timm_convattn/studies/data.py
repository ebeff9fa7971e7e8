"""The crops of a study, identified by their content and not by their location."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
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
from timm_convattn.redact import strip_local_paths
from timm_convattn.results import StudyDataset

__all__ = ['StudyData', 'open_study_data']

SPLITS = ('train', 'validation')


@dataclass(frozen=True)
class StudyData(StudyDataset):
    """A data set of crops, and where they are."""

    source: str | None = None
    """Folder or id on the Hub, as finetune.py takes it; None for the embedded scenes."""
    configuration: str | None = None
    """Configuration of a data set on the Hub."""
    kept: Mapping[float | None, Path] | None = None
    """If only evidence of the crops is available: share of held-out frames (None: the validation split) -> Parquet file
    with labels and frames."""

    @property
    def description(self) -> StudyDataset:
        """The data set without local paths."""
        values = {each.name: getattr(self, each.name) for each in fields(StudyDataset)}
        return StudyDataset(**{**values, 'origin': strip_local_paths(self.origin)})

    @property
    def num_train(self) -> int:
        """Number of training crops."""
        return sum(self.counts['train'].values())

    @property
    def title(self) -> str:
        """Name, origin and classes."""
        return f'{self.name} ({self.origin}), {self.classes}'

    def open(self) -> datasets.DatasetDict:
        """Return the splits train and validation."""
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
        """Return label and frame index of each validation crop; unnamed frames have one crop each."""
        labels, frames = self.labels_and_frame_names()
        return labels, np.arange(len(labels)) if frames is None else np.unique(frames, return_inverse=True)[1]


def open_study_data(source: str | None, classes: Classes, folder: Path) -> StudyData:
    """Open the crops of a set of classes.

    Args:
        source: A folder of crops of four classes, the id of a data set on the Hub with a configuration for each set of
            classes, or None for the embedded scenes.
        classes: The set of classes.
        folder: Folder to write crops to that have fewer classes than those of `source`.

    Raises:
        InputError: If the crops cannot be opened, or are of other classes.
    """
    local = scene_crops() if source is None else Path(source)
    path, configuration = source, None if local.is_dir() else classes
    crops, hashes = _open(path, configuration)
    if class_names_of(crops['train']) != list(CLASSES[classes]) and built_crops(local) is not None:
        path = str(folder / f'{classes}-{_joint(hashes)[:12]}')
        if built_crops(Path(path)) is None:
            narrow_crops(local, Path(path), classes)
        crops, hashes = _open(path, None)
    names = tuple(class_names_of(crops['train']))
    if names != CLASSES[classes]:
        raise InputError(
            f'{source} has the classes {", ".join(names)}, wanted {", ".join(CLASSES[classes])} ({classes}).'
        )
    return StudyData(
        name=_name(source, classes),
        source=path,
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
    name = 'thermal_scenes' if source is None else re.sub(r'\W+', '_', Path(source).name)
    return name if classes == 'four_class' else f'{name}_{classes}'


def _joint(hashes: dict[str, str]) -> str:
    return hashlib.sha256(''.join(hashes.values()).encode()).hexdigest()


def _count(crops: Any, names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(crops['label'][:], minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))
