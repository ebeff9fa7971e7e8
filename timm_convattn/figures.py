"""Figures of crops and of results."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure  # not pyplot: figures go to files, and a notebook keeps its own backend

from timm_convattn.predictions import Predictions
from timm_convattn.redact import strip_local_paths
from timm_convattn.results import RunResults

__all__ = [
    'draw_confusion_matrix',
    'draw_crops',
    'draw_predicted',
    'draw_sheet',
    'plot_confusion_matrix',
    'plot_crops',
    'rejected_crops',
]


def plot_confusion_matrix(results: RunResults, path: Path) -> None:
    """Draw the confusion matrix of a run to a PNG."""
    draw_confusion_matrix(results).savefig(path, dpi=120)


def draw_confusion_matrix(results: RunResults) -> Figure:
    """Draw the confusion matrix of a run: true classes in rows, predicted ones in columns, shares as colors."""
    data, metrics = results.data, results.metrics
    counts = np.asarray(metrics.confusion_matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = Figure(figsize=(1.6 + 1.1 * len(counts), 1.4 + 0.9 * len(counts)), layout='constrained')
    axes = figure.subplots()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    for row, column in np.ndindex(*counts.shape):
        text = f'{counts[row, column]:,}\n{shares[row, column]:.1%}' if totals[row, 0] else '-'
        axes.text(column, row, text, ha='center', va='center', color='white' if shares[row, column] > 0.5 else 'black')
    names = [
        name if total else f'{name}\n(no sample)' for name, total in zip(data.class_names, totals[:, 0], strict=True)
    ]
    axes.set_xticks(range(len(counts)), data.class_names)
    axes.set_yticks(range(len(counts)), names)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    source = strip_local_paths(data.source)  # the figure is published with the model
    axes.set_title(
        f'{results.model.architecture} on {source}, {data.split}: accuracy {metrics.accuracy:.2%}', wrap=True
    )
    return figure


def plot_crops(crops: Any, path: Path, per_class: int = 12, seed: int = 0) -> None:
    """Write a PNG of a sheet of crops, see `draw_crops`."""
    draw_crops(crops, per_class, seed).savefig(path, dpi=120)


def draw_crops(crops: Any, per_class: int = 12, seed: int = 0) -> Figure:
    """Draw a sheet of randomly chosen crops, one row for each class that has any (as the paper's Fig. 5).

    Args:
        crops: A `datasets.Dataset` with columns `image` and `label`.
        per_class: Crops in a row.
        seed: Seed of the random choice.
    """
    labels = np.asarray(crops['label'])
    names = crops.features['label'].names
    present = [index for index in range(len(names)) if (labels == index).any()]
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in present]
    rows = {
        names[label]: [np.asarray(crops[int(index)]['image'].convert('L')) for index in indices]
        for label, indices in zip(present, chosen, strict=True)
    }
    return draw_sheet(rows, per_class)


def rejected_crops(
    predictions: Predictions, confidences: npt.NDArray[np.float64], threshold: float, columns: int
) -> dict[str, list[int]]:
    """Choose the crops of each true class with the lowest confidence below a threshold.

    Args:
        predictions: Predictions for a split.
        confidences: (N,)
        threshold: Lowest confidence at which a crop is answered.
        columns: Largest number of crops of a class.

    Returns:
        Class -> indices of crops; classes without any are left out.
    """
    chosen = {}
    for label, name in enumerate(predictions.class_names):
        below = np.flatnonzero((predictions.labels == label) & (confidences < threshold))
        chosen[name] = below[np.argsort(confidences[below])][:columns].tolist()
    return {name: indices for name, indices in chosen.items() if indices}


def draw_predicted(
    crops: Any, predictions: Predictions, confidences: npt.NDArray[np.float64], rows: dict[str, list[int]], columns: int
) -> Figure:
    """Draw crops with their predicted class and its confidence.

    Args:
        crops: A split, a `datasets.Dataset` with a column `image`.
        predictions: Predictions for the split.
        confidences: (N,)
        rows: Label of each row, and the indices of its crops.
        columns: Number of columns.
    """

    def caption(index: int) -> str:
        return f'{predictions.class_names[predictions.predicted[index]]}\n{confidences[index]:.0%}'

    images = {
        name: [np.asarray(crops[index]['image'].convert('L')) for index in indices] for name, indices in rows.items()
    }
    captions = {name: [caption(index) for index in indices] for name, indices in rows.items()}
    return draw_sheet(images, columns, captions)


def draw_sheet(
    rows: dict[str, list[npt.NDArray[np.uint8]]], columns: int, captions: dict[str, list[str]] | None = None
) -> Figure:
    """Draw grey images of any size as rows of squares.

    Args:
        rows: Label of each row, and its images (H, W).
        columns: Number of columns.
        captions: Captions of the images of each row.
    """
    figure = Figure(figsize=(columns, (1.1 if captions is None else 1.45) * len(rows)), layout='constrained')
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        for index, (axes, image) in enumerate(zip(line, images, strict=False)):
            axes.imshow(image, cmap='gray', vmin=0, vmax=255, aspect='auto')
            axes.set_box_aspect(1)
            if captions is not None:
                axes.set_xlabel(captions[name][index], fontsize=7)
    return figure
