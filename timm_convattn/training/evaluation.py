"""Evaluation of a model on a split, at the end of a run and by `validate.py`."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import msgspec
import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from timm_convattn.complexity import count_parameters
from timm_convattn.data.crop_images import CropImages, unwrap_worker_errors
from timm_convattn.data.sources import class_names_of, content_hash, describe_origin, describe_source
from timm_convattn.environment import describe_environment
from timm_convattn.errors import InputError
from timm_convattn.metrics import accuracy_by_size, compute_metrics
from timm_convattn.models.config import Preprocessing, label_names, model_data_config, pretrained_cfg
from timm_convattn.predictions import Predictions
from timm_convattn.results import Metrics, RunData, RunModel, RunResults

__all__ = ['BATCH_SIZE', 'evaluate_model', 'evaluation_loader', 'predict', 'score']


BATCH_SIZE = 128  # the last bits of sums of floats depend on it


def evaluation_loader(
    crops: datasets.Dataset, data_config: Preprocessing, batch_size: int = BATCH_SIZE, num_workers: int = 0
) -> DataLoader[Any]:
    """Create the loader of (images, labels, indices) of all crops in their order, with timm's evaluation transform."""
    transform = timm.data.create_transform(**data_config, is_training=False)
    images = CropImages(crops, transform, in_chans=data_config['input_size'][0])
    return DataLoader(images, batch_size=batch_size, num_workers=num_workers, generator=torch.Generator())


def predict(
    model: nn.Module,
    loader: DataLoader[Any],
    accelerator: Accelerator,
    class_names: Sequence[str],
    progress: bool = False,
) -> Predictions:
    """Compute the logits of all samples of a loader, each once with any number of processes.

    Args:
        model: The model, which returns (B, num_classes) logits; it is in eval mode meanwhile.
        loader: An `evaluation_loader`, prepared by the accelerator.
        accelerator: The accelerator that gathers the logits of all processes.
        class_names: Names of the classes, in the order of the logits.
        progress: Whether to show a progress bar on a terminal.
    """
    was_training = model.training
    model.eval()
    gathered: tuple[list[torch.Tensor], ...] = ([], [], [])
    quiet = None if progress and accelerator.is_main_process else True  # None: only on a terminal
    with torch.inference_mode(), unwrap_worker_errors():
        for images, labels, indices in tqdm(loader, desc='Evaluating', unit='batch', leave=False, disable=quiet):
            for values, value in zip(gathered, (model(images).float(), labels, indices), strict=True):
                values.append(accelerator.gather_for_metrics(value).cpu())
    model.train(was_training)
    logits, labels, indices = (torch.cat(values) for values in gathered)
    order = indices.argsort()
    return Predictions(logits[order].numpy(), labels[order].numpy(), tuple(class_names))


def score(predictions: Predictions, sides: npt.NDArray[np.floating] | None = None) -> Metrics:
    """Compute the metrics of N predictions; `by_size` needs the (N,) sides of the crops in their frames, in pixels."""
    losses = F.cross_entropy(
        torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels), reduction='none'
    )
    metrics = compute_metrics(predictions.predicted, predictions.labels, predictions.class_names)
    by_size = None if sides is None else accuracy_by_size(predictions.hits, sides)
    return msgspec.convert({'loss': losses.double().mean().item(), **metrics, 'by_size': by_size}, Metrics)


def crop_sides(crops: datasets.Dataset) -> npt.NDArray[np.floating] | None:
    """Compute the side of each crop in its frame in pixels, the square root of its box's area; None without boxes."""
    if 'bbox' not in crops.features:
        return None
    boxes = np.asarray(crops['bbox'][:], dtype=np.float64)
    return np.sqrt(boxes[:, 2] * boxes[:, 3])


def evaluate_model(
    model: nn.Module,
    crops: datasets.Dataset,
    source: str | None,
    split: str,
    accelerator: Accelerator,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
) -> tuple[RunResults, Predictions]:
    """Evaluate a trained model on a split, in float32.

    Args:
        model: A model that timm created or loaded.
        crops: The split.
        source: Source of the crops, None for the embedded scenes.
        split: Name of the split.
        accelerator: Device and processes.
        batch_size: Crops per batch.
        num_workers: Worker processes that load crops.

    Returns:
        The results, without `training`, and the logits of each crop.

    Raises:
        InputError: If the classes of the model and the crops differ.
    """
    names, found = class_names_of(crops), label_names(model)
    if found is None:
        raise InputError(
            f'The model does not name its {model.num_classes} classes: label_names in config.json is '
            f'{reprlib.repr(pretrained_cfg(model).get("label_names"))}, so they cannot be compared.'
        )
    if found != names:
        raise InputError(
            f'The model has {len(found)} classes ({", ".join(found)}), {describe_source(source)} '
            f'has {len(names)} ({", ".join(names)}). Use crops of the same classes, or fine-tune the model on these.'
        )
    config = model_data_config(model)
    loader = accelerator.prepare(evaluation_loader(crops, config, batch_size, num_workers))
    predictions = predict(model.to(accelerator.device), loader, accelerator, names, progress=True)
    results = RunResults(
        model=RunModel(
            architecture=pretrained_cfg(model)['architecture'],
            parameters=count_parameters(model),
            input=config,
        ),
        data=RunData(
            source=describe_source(source),
            origin=describe_origin(source),
            repo_id=None if source is None or Path(source).exists() else source,
            split=split,
            sha256=content_hash(crops),
            class_names=names,
        ),
        metrics=score(predictions, crop_sides(crops)),
        environment=describe_environment(accelerator.num_processes, accelerator.device.type),
    )
    return results, predictions
