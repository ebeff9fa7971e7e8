"""Sources of crops: a folder of Parquet shards, a data set on the Hub, or the embedded thermal scenes."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import datasets

from timm_convattn.data import thermal_scenes
from timm_convattn.data.crops import CropSet, build_crops, built_crops, load_crops
from timm_convattn.data.flir import LAYOUTS
from timm_convattn.errors import InputError
from timm_convattn.files import create_folder
from timm_convattn.hub_errors import explain_hub_failures

__all__ = [
    'EMBEDDED_SCENES',
    'cache_folder',
    'check_columns',
    'class_names_of',
    'content_hash',
    'copy_scene_crops',
    'describe_origin',
    'describe_source',
    'explain_source',
    'locate_source',
    'open_crops',
    'scene_crops',
]

EMBEDDED_SCENES = 'embedded thermal scenes'


def open_crops(source: str | None, splits: tuple[str, ...], configuration: str | None = None) -> datasets.DatasetDict:
    """Open a data set of crops and check that it is one.

    Args:
        source: A folder that `build_dataset.py` wrote, the id of a data set on the Hub, or None for the embedded
            thermal scenes, which are drawn on first use.
        splits: The splits that are needed.
        configuration: Configuration of a data set on the Hub. None: its default one.

    Returns:
        The splits, with columns `image` (`Image`) and `label` (`ClassLabel`) at least.

    Raises:
        InputError: If there is no such data set, it cannot be reached, or a split, column or label is missing.
    """
    name = locate_source(source)
    with explain_source(name):
        crops = load_crops(name, configuration)
    missing = [split for split in splits if split not in crops or len(crops[split]) == 0]
    if missing:
        seen = ', '.join(f'{split} ({len(crops[split]):,})' for split in crops)
        raise InputError(f'{name} has no crops in {", ".join(missing)}; it has {seen}.')
    for split in splits:
        check_columns(crops[split], f'{name}, split {split}')
        _check_labels(crops[split], f'{name}, split {split}')
    return crops


def locate_source(source: str | None) -> str:
    """Return the folder or the id on the Hub to open; embedded scenes that are not in the cache are drawn.

    Raises:
        InputError: If it is a folder of frames.
    """
    if source is None:
        return str(scene_crops())
    if Path(source).is_dir():
        _refuse_flir_folder(Path(source))
    return source


@contextmanager
def explain_source(name: str) -> Iterator[None]:
    """Turn failures to open a data set into an `InputError`.

    Raises:
        InputError: If it does not exist, cannot be reached, or is not a data set.
    """
    if not Path(name).exists() and re.fullmatch(r'[\w.-]+/[\w.-]+', name):
        with explain_hub_failures(name, f'find a folder {name}, nor open the data set'):
            yield
        return
    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f'{name} could not be opened as a data set of crops ({type(error).__name__}: {error}). '
            'Use a folder that build_dataset.py wrote, or the id of a data set on the Hub.'
        ) from error


def describe_source(source: str | None) -> str:
    """Describe the source of crops, for messages and records."""
    return EMBEDDED_SCENES if source is None else source


def describe_origin(source: str | None) -> str:
    """Describe the frames that crops were cut from, which `crops.json` of a folder records."""
    built = None if source is None else built_crops(Path(source))
    return describe_source(source) if built is None else built.origin


def class_names_of(crops: Any) -> list[str]:
    """Return the names of the classes, in the order of the labels."""
    names: list[str] = crops.features['label'].names
    return names


def content_hash(crops: datasets.Dataset) -> str:
    """Return a hash of the encoded images and the labels, in their order; the location of the crops does not matter."""
    digest = hashlib.sha256()
    columns = crops.select_columns(['image', 'label']).cast_column('image', datasets.Image(decode=False))
    for batch in columns.iter(1_000):
        for image, label in zip(batch['image'], batch['label'], strict=True):
            digest.update(image['bytes'] or str(image['path']).encode())
            digest.update(label.to_bytes(4, 'little'))
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the cache folder of this package."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'timm_convattn'


def scene_crops(seed: int = 0) -> Path:
    """Return the folder with the crops of the embedded scenes; create it if it is not in the cache."""
    folder = cache_folder() / f'scene_crops-v{thermal_scenes.VERSION}-seed{seed}'
    if not folder.exists():
        try:
            _build_scene_crops(folder, seed)
        except (InputError, OSError):
            if not folder.exists():  # else another process built the same crops first
                raise
    return folder


def _build_scene_crops(folder: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix='thermal_scenes.') as frames:
        thermal_scenes.write_scenes(Path(frames) / 'flir', seed=seed)
        build_crops(Path(frames) / 'flir', folder, progress=False, origin=EMBEDDED_SCENES)


def copy_scene_crops(out: Path) -> CropSet:
    """Write the crops of the embedded scenes to a new or empty folder."""
    with create_folder(out) as folder:
        shutil.copytree(scene_crops(), folder, dirs_exist_ok=True)
    return cast(CropSet, built_crops(out))


def _refuse_flir_folder(folder: Path) -> None:
    splits = [folder / split for layout in LAYOUTS for split in layout.splits.values()]
    if any(split.is_dir() for split in splits) and not any(folder.glob('**/*.parquet')):
        raise InputError(
            f'{folder} holds frames, not crops. Cut the crops first: '
            f'python train_scripts/build_dataset.py --flir-root {folder} --out CROPS'
        )


def _check_labels(crops: datasets.Dataset, name: str) -> None:
    """Refuse labels outside of the classes, which data sets have for samples without a label."""
    num_classes = len(class_names_of(crops))
    labels = crops['label'][:]
    wrong = [index for index, label in enumerate(labels) if label is None or not 0 <= label < num_classes]
    if wrong:
        raise InputError(
            f'{name}: {len(wrong)} crops have labels that are none of the {num_classes} classes, the first is crop '
            f'{wrong[0]} with {labels[wrong[0]]}. Remove these crops.'
        )


def check_columns(crops: datasets.Dataset | datasets.IterableDataset, name: str) -> None:
    """Refuse a data set without images, or without labels that have names.

    Raises:
        InputError: If a column is missing or has another type.
    """
    wanted = {'image': datasets.Image, 'label': datasets.ClassLabel}
    features = crops.features or {}  # None for some streams
    for column, kind in wanted.items():
        seen = features.get(column)
        if not isinstance(seen, kind):
            columns = ', '.join(f'{key} ({type(value).__name__})' for key, value in features.items())
            raise InputError(
                f'{name}: the column "{column}" is {"missing" if seen is None else type(seen).__name__}, wanted '
                f'{kind.__name__}. Its columns are {columns}. Use crops that build_dataset.py wrote.'
            )
