"""Selective classification: confidence, calibration, risk-coverage curves and thresholds.

A selective classifier answers only where its confidence reaches a threshold. Its coverage is the share of samples that
it answers, its risk the share of these answers that is wrong (El-Yaniv and Wiener, 2010).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # imports `optimize` and `special` when they are first used

from timm_convattn.errors import InputError
from timm_convattn.results import Answers

__all__ = [
    'Reliability',
    'RiskCoverage',
    'choose_threshold',
    'confidence',
    'fit_temperature',
    'format_answers',
    'reliability',
    'risk_coverage',
    'selective_metrics',
]

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

TEMPERATURES = (1 / 20, 20.0)
COVERAGES = np.arange(1, 21) / 20


def confidence(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the largest probability of each sample (N,), also called maximum softmax response.

    Args:
        logits: (N, num_classes)
        temperature: Divisor of the logits. Above 1 it lowers the confidence; it changes no predicted class.
    """
    probabilities: npt.NDArray[np.float64] = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
    largest: npt.NDArray[np.float64] = np.max(probabilities, axis=1)
    return largest


def fit_temperature(logits: Floats, labels: npt.NDArray[np.integer[Any]]) -> float:
    """Fit the temperature by maximum likelihood.

    Source: "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2.

    Args:
        logits: (N, num_classes), of samples that the model was not trained on.
        labels: (N,) true classes.

    Returns:
        The temperature, between 1/20 and 20.

    Raises:
        ValueError: If there are no samples, or logits that are not finite.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError(f'Got {len(labels)} samples, all logits finite: {np.isfinite(logits).all()}; wanted both.')
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        log_p = scipy.special.log_softmax(logits / math.exp(log_temperature), axis=1)
        return float(-log_p[np.arange(len(labels)), labels].mean())

    bounds = (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method='bounded').x)


@dataclass(frozen=True)
class RiskCoverage:
    """Risk at each threshold, from the most confident samples to all of them."""

    thresholds: npt.NDArray[np.float64]
    """(K,) falling confidences; samples that reach one are answered."""
    coverage: npt.NDArray[np.float64]
    """(K,) share of the samples that is answered."""
    risk: npt.NDArray[np.float64]
    """(K,) share of the answers that is wrong."""
    area: float
    """Mean risk over the coverages 1/N ... 1 (AURC, arXiv:1805.08206); 0 is the best."""
    minimum_area: float
    """Area of a confidence that ranks all errors last."""


def risk_coverage(confidences: Floats, hits: Bools) -> RiskCoverage:
    """Compute the risk-coverage curve.

    Samples of equal confidence are answered together. The area is the mean over all their orders.

    Args:
        confidences: (N,)
        hits: (N,) whether each answer is right.

    Raises:
        ValueError: If there are no samples.
    """
    if len(hits) == 0:
        raise ValueError('There are no samples.')
    thresholds, groups = np.unique(-np.asarray(confidences, np.float64), return_inverse=True)
    sizes, errors = np.bincount(groups), np.bincount(groups, weights=~hits)
    answered, wrong = sizes.cumsum(), errors.cumsum()
    # errors are spread evenly within a group of equal confidences
    before, wrong_before = np.repeat(answered - sizes, sizes), np.repeat(wrong - errors, sizes)
    ranks = np.arange(1, len(hits) + 1)
    expected = wrong_before + (ranks - before) * np.repeat(errors / sizes, sizes)
    best = np.maximum(ranks - hits.sum(), 0) / ranks
    return RiskCoverage(
        thresholds=-thresholds,
        coverage=answered / len(hits),
        risk=wrong / answered,
        area=float((expected / ranks).mean()),
        minimum_area=float(best.mean()),
    )


@dataclass(frozen=True)
class Reliability:
    """Accuracy by confidence (reliability diagram)."""

    edges: npt.NDArray[np.float64]
    """(bins + 1,) limits of the bins."""
    counts: npt.NDArray[np.int64]
    """(bins,) samples in each bin."""
    confidences: npt.NDArray[np.float64]
    """(bins,) mean confidence, NaN without samples."""
    accuracies: npt.NDArray[np.float64]
    """(bins,) accuracy, NaN without samples."""
    error: float
    """Expected calibration error: mean difference of the two, weighted by the counts (arXiv:1706.04599, Eq. 3)."""


def reliability(confidences: Floats, hits: Bools, bins: int = 15) -> Reliability:
    """Compare confidence with accuracy in bins of equal width.

    Args:
        confidences: (N,) in [0, 1].
        hits: (N,) whether each answer is right.
        bins: Number of bins over [0, 1].
    """
    edges = np.linspace(0, 1, bins + 1)
    indices = np.clip(np.ceil(np.asarray(confidences) * bins).astype(int) - 1, 0, bins - 1)  # bins are open below
    counts = np.bincount(indices, minlength=bins)
    with np.errstate(invalid='ignore'):
        mean = np.bincount(indices, weights=confidences, minlength=bins) / counts
        accuracies = np.bincount(indices, weights=hits, minlength=bins) / counts
    error = np.nansum(np.abs(mean - accuracies) * counts) / max(int(counts.sum()), 1)
    return Reliability(edges, counts, mean, accuracies, float(error))


def choose_threshold(
    confidences: Floats, hits: Bools, target_error_rate: float, confidence_level: float = 0.95
) -> float:
    """Choose the lowest threshold whose risk does not exceed a target error rate, at a confidence level.

    The candidates are the thresholds of twenty coverages from 5% to 100%. Each gets a Clopper-Pearson upper bound of
    its risk, with `1 - confidence_level` divided among them (Bonferroni), so that all hold together (as in "Selective
    Classification for Deep Neural Networks", arXiv:1705.08500, and "Learn then Test", arXiv:2110.01052). The bound
    holds for samples of the same distribution.

    Args:
        confidences: (N,) of samples that the model was not trained on.
        hits: (N,) whether each answer is right.
        target_error_rate: Largest share of wrong answers to accept, in (0, 1).
        confidence_level: Probability with which the bounds hold.

    Raises:
        InputError: If no threshold has a bound as low; the message has the lowest one.
    """
    if not 0 < target_error_rate < 1:
        raise InputError(f'The target error rate is {target_error_rate}, it must be between 0 and 1.')
    curve = risk_coverage(confidences, hits)
    indices = np.unique(np.searchsorted(curve.coverage, COVERAGES - 1e-9))
    answers = np.round(curve.coverage[indices] * len(hits))
    wrong = np.round(curve.risk[indices] * answers)
    alpha = (1 - confidence_level) / len(indices)
    right = np.maximum(answers - wrong, 1)  # where none is, the bound is 1
    bounds = np.where(wrong < answers, scipy.special.betaincinv(wrong + 1, right, 1 - alpha), 1.0)
    good = indices[bounds <= target_error_rate]
    if not len(good):
        raise InputError(
            f'No threshold keeps the error rate at {target_error_rate:.2%} at a confidence level of '
            f'{confidence_level:.0%}: with {len(hits):,} held-out crops, {int((~hits).sum()):,} of them wrong, the '
            f'lowest bound is {bounds.min():.2%}. Raise the target error rate, or hold out more frames.'
        )
    return float(curve.thresholds[good[-1]])


def selective_metrics(confidences: Floats, hits: Bools, threshold: float) -> Answers:
    """Compute the effect of a threshold on a set of samples.

    Args:
        confidences: (N,)
        hits: (N,) whether each answer is right.
        threshold: Lowest confidence at which a sample is answered.
    """
    answered = np.asarray(confidences) >= threshold
    accuracy = float(hits[answered].mean()) if answered.any() else None
    error_rate = None if accuracy is None else 1 - accuracy
    return Answers(threshold, float(answered.mean()), int(answered.sum()), accuracy, error_rate)


def format_answers(answers: Answers, target_error_rate: float) -> str:
    """Format threshold, coverage and accuracy as text."""
    accuracy = '-' if answers.accuracy is None else f'{answers.accuracy:.4f}'
    return (
        f'answered with a confidence of {answers.threshold:.4f} and more, for at most {target_error_rate:.2%} wrong: '
        f'{answers.num_answered:,} crops, coverage {answers.coverage:.4f}, accuracy {accuracy}'
    )
