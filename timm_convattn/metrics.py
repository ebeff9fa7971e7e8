"""Classification metrics as `evaluate.Metric`s that need no network.

All are computed from the confusion matrix. A class without samples has no recall and no F1: it is reported with a
support of 0 and `None`, listed in `absent_classes`, and left out of the macro average. A class that has samples
but was never predicted has a precision and an F1 of 0.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from timm_convattn.results import Metrics, SizeGroup
from timm_convattn.tables import format_table

__all__ = [
    'Accuracy',
    'ClassReport',
    'ConfusionMatrix',
    'accuracy',
    'accuracy_by_size',
    'compute_metrics',
    'confusion_matrix',
    'format_metrics',
    'macro_f1',
]

SIDES = (0, 16, 32, 64)  # lower limits of the size groups, in pixels


def confusion_matrix(
    references: npt.NDArray[np.integer], predictions: npt.NDArray[np.integer], num_classes: int
) -> npt.NDArray[np.int64]:
    """Count how often each class was predicted as each class.

    Args:
        references: (N,) true classes.
        predictions: (N,) predicted classes.
        num_classes: Number of classes.

    Returns:
        (num_classes, num_classes), rows are true classes, columns predicted ones.

    Raises:
        ValueError: If a label is outside 0 ... num_classes - 1.
    """
    for name, labels in (('references', references), ('predictions', predictions)):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            raise ValueError(
                f'{name} hold labels from {labels.min()} to {labels.max()}, wanted 0 to {num_classes - 1} '
                f'({num_classes} classes).'
            )
    counts = np.bincount(references * num_classes + predictions, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy(matrices: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the accuracy from confusion matrices (..., C, C)."""
    share: npt.NDArray[np.float64] = np.trace(matrices, axis1=-2, axis2=-1) / matrices.sum(axis=(-2, -1))
    return share


def macro_f1(matrices: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the mean F1 of the classes that have samples from confusion matrices (..., C, C)."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    mean: npt.NDArray[np.float64] = np.where(support > 0, f1, 0).sum(axis=-1) / (support > 0).sum(axis=-1)
    return mean


class _LabelMetric(evaluate.Metric):
    """A metric of predicted against true labels.

    Args:
        class_names: Names of the classes, in the order of the labels.
        **kwargs: Passed to `evaluate.Metric`; `keep_in_memory` is true by default.
    """

    def __init__(self, class_names: Sequence[str], **kwargs: Any) -> None:
        self.class_names = list(class_names)
        super().__init__(**{'keep_in_memory': True, 'cache_dir': tempfile.gettempdir(), **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value('int64')
        return evaluate.MetricInfo(
            description=(self.__doc__ or '').splitlines()[0],
            citation='',
            inputs_description='predictions and references: labels, as integers',
            features=datasets.Features({'predictions': label, 'references': label}),
            format='numpy',
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add labels; floats are refused, because `evaluate` would truncate them silently."""
        for name, labels in (('predictions', predictions), ('references', references)):
            dtype = np.asarray(labels).dtype
            if np.size(labels) and not np.issubdtype(dtype, np.integer):
                raise ValueError(f'{name} are of type {dtype}, wanted integers: take the argmax of the logits first.')
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, object] | None:
        """Compute the metric over all added labels, and over those passed."""
        if predictions is None and self.writer is None:
            raise ValueError('There are no labels to compute a metric of: add some first.')
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        result: dict[str, object] | None = super().compute(**kwargs)
        return result

    def _matrix(self, predictions: Any, references: Any) -> npt.NDArray[np.int64]:
        return confusion_matrix(np.asarray(references), np.asarray(predictions), len(self.class_names))


class Accuracy(_LabelMetric):
    """Share of samples whose predicted class is the true one."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, object]:
        return {'accuracy': float(accuracy(self._matrix(predictions, references)))}


class ClassReport(_LabelMetric):
    """Precision, recall, F1, support of each class; macro and weighted F1 over the classes that have samples."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, object]:
        matrix = self._matrix(predictions, references)
        per_class = {name: _class_scores(matrix, index) for index, name in enumerate(self.class_names)}
        f1 = np.array([scores['f1'] for scores in per_class.values() if scores['support']], np.float64)
        support = np.array([scores['support'] for scores in per_class.values() if scores['support']])
        return {
            'macro_f1': float(macro_f1(matrix)),
            'weighted_f1': float(np.average(f1, weights=support)),
            'absent_classes': [name for name, scores in per_class.items() if not scores['support']],
            'per_class': per_class,
        }


class ConfusionMatrix(_LabelMetric):
    """Counts of predicted (columns) against true (rows) classes."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, object]:
        return {'confusion_matrix': self._matrix(predictions, references).tolist()}


def _class_scores(matrix: npt.NDArray[np.int64], index: int) -> dict[str, float | int | None]:
    hits, support, predicted = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
    if support == 0:
        return {'precision': None, 'recall': None, 'f1': None, 'support': 0}
    return {
        'precision': float(hits / predicted) if predicted else 0.0,
        'recall': float(hits / support),
        'f1': float(2 * hits / (support + predicted)),
        'support': int(support),
    }


def compute_metrics(predictions: Any, references: Any, class_names: Sequence[str]) -> dict[str, object]:
    """Compute all metrics of this module.

    Args:
        predictions: (N,) predicted labels, integers.
        references: (N,) true labels, integers.
        class_names: Names of the classes, in the order of the labels.

    Returns:
        The fields of `timm_convattn.results.Metrics` except `loss` and `by_size`, as plain values.

    Raises:
        ValueError: If there are no labels, or labels that are no integers or outside the classes.
    """
    if len(references) == 0:
        raise ValueError('There are no samples to evaluate on.')
    metrics: dict[str, object] = {'num_samples': len(references)}
    for kind in (Accuracy, ClassReport, ConfusionMatrix):
        metrics |= kind(class_names).compute(predictions=predictions, references=references) or {}
    return metrics


def accuracy_by_size(hits: npt.NDArray[np.bool_], sides: npt.NDArray[np.floating]) -> list[SizeGroup]:
    """Compute the accuracy by size of the crops, smallest first.

    Args:
        hits: (N,) whether each crop was classified correctly.
        sides: (N,) side of each crop in its frame, in pixels: the square root of its area.
    """
    groups = []
    for lowest, highest in zip(SIDES, [*SIDES[1:], None], strict=True):
        chosen = hits[(sides >= lowest) & (sides < (highest or np.inf))]
        accuracy = float(chosen.mean()) if len(chosen) else None
        groups.append(SizeGroup(lowest, highest, len(chosen), accuracy))
    return groups


def format_metrics(metrics: Metrics) -> str:
    """Format metrics as text: a row for each class, then the averages."""
    header, rows = ['class', 'precision', 'recall', 'F1', 'samples'], []
    for name, scores in metrics.per_class.items():
        values = ['-' if value is None else f'{value:.4f}' for value in (scores.precision, scores.recall, scores.f1)]
        rows.append([name, *values, f'{scores.support:,}' if scores.support else 'no sample'])
    absent = metrics.absent_classes
    lines = [
        format_table(header, rows, right=range(1, len(header))),
        f'accuracy {metrics.accuracy:.4f}, macro F1 {metrics.macro_f1:.4f}, '
        f'weighted F1 {metrics.weighted_f1:.4f} over {metrics.num_samples:,} crops'
        + (f' (macro over the classes with samples; none of {", ".join(absent)})' if absent else ''),
    ]
    return '\n'.join(lines)
