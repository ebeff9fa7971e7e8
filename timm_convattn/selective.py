"""What should not be classified at all: how sure a model is, what it costs to listen, and where to draw the line.

A classifier that may reject answers only where its confidence reaches a threshold. Its coverage is the share of samples
that it answers, its risk the share of those answers that is wrong (El-Yaniv and Wiener, 2010).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # imports `optimize` and `special` when they are first used

from timm_convattn.errors import InputError

__all__ = [
    'Reliability',
    'RiskCoverage',
    'choose_threshold',
    'confidence',
    'fit_temperature',
    'format_rejection',
    'reliability',
    'risk_coverage',
    'selective_metrics',
]

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

TEMPERATURES = (1 / 20, 20.0)
COVERAGES = np.arange(1, 21) / 20


def confidence(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Give the largest probability of each sample (maximum softmax response).

    Args:
        logits: (N, num_classes)
        temperature: What the logits are divided by; above 1 the model is less sure. It changes no decision.

    Returns:
        (N,)
    """
    probabilities: npt.NDArray[np.float64] = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
    largest: npt.NDArray[np.float64] = np.max(probabilities, axis=1)
    return largest


def fit_temperature(logits: Floats, labels: npt.NDArray[np.integer[Any]]) -> float:
    """Find the temperature that makes the labels most likely.

    Source: "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2.

    Args:
        logits: (N, num_classes), of samples that the model was not trained on.
        labels: (N,) their classes.

    Returns:
        The temperature, between 1/20 and 20.

    Raises:
        ValueError: If there are no samples, or logits that are not finite.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        raise ValueError(f'{len(labels)} samples were given with finite logits: {np.isfinite(logits).all()}.')
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        log_p = scipy.special.log_softmax(logits / math.exp(log_temperature), axis=1)
        return float(-log_p[np.arange(len(labels)), labels].mean())

    bounds = (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method='bounded').x)


@dataclass(frozen=True)
class RiskCoverage:
    """The risk at every coverage that some threshold gives, from the surest samples to all of them."""

    thresholds: npt.NDArray[np.float64]
    """(K,) falling confidences; samples that reach one are answered."""
    coverage: npt.NDArray[np.float64]
    """(K,) share of the samples that is answered."""
    risk: npt.NDArray[np.float64]
    """(K,) share of the answers that is wrong."""
    area: float
    """Mean risk over the coverages 1/N ... 1 (AURC, arXiv:1805.08206); 0 is the best."""
    least_area: float
    """What a confidence that puts all errors last would have."""


def risk_coverage(sureness: Floats, hits: Bools) -> RiskCoverage:
    """Compute the risk-coverage curve.

    Samples of equal confidence are answered together; in the area they share the risk of their mean order.

    Args:
        sureness: (N,) confidences.
        hits: (N,) whether each answer is right.

    Raises:
        ValueError: If there are no samples.
    """
    if len(hits) == 0:
        raise ValueError('There are no samples.')
    thresholds, groups = np.unique(-np.asarray(sureness, np.float64), return_inverse=True)
    sizes, errors = np.bincount(groups), np.bincount(groups, weights=~hits)
    answered, wrong = sizes.cumsum(), errors.cumsum()
    # within a group of equals every order is as likely: errors come in evenly
    before, wrong_before = np.repeat(answered - sizes, sizes), np.repeat(wrong - errors, sizes)
    places = np.arange(1, len(hits) + 1)
    expected = wrong_before + (places - before) * np.repeat(errors / sizes, sizes)
    best = np.maximum(places - hits.sum(), 0) / places
    return RiskCoverage(
        thresholds=-thresholds,
        coverage=answered / len(hits),
        risk=wrong / answered,
        area=float((expected / places).mean()),
        least_area=float(best.mean()),
    )


@dataclass(frozen=True)
class Reliability:
    """How often a model is right where it says how sure it is."""

    edges: npt.NDArray[np.float64]
    """(bins + 1,)"""
    counts: npt.NDArray[np.int64]
    """(bins,) samples whose confidence lies in each bin."""
    confidences: npt.NDArray[np.float64]
    """(bins,) their mean confidence, NaN without samples."""
    accuracies: npt.NDArray[np.float64]
    """(bins,) the share that is right, NaN without samples."""
    error: float
    """Expected calibration error: the mean distance of the two, weighted by the counts (arXiv:1706.04599, Eq. 3)."""


def reliability(sureness: Floats, hits: Bools, bins: int = 15) -> Reliability:
    """Compare confidence with accuracy in bins of equal width.

    Args:
        sureness: (N,) confidences in [0, 1].
        hits: (N,) whether each answer is right.
        bins: Number of bins over [0, 1].
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.ceil(np.asarray(sureness) * bins).astype(int) - 1, 0, bins - 1)  # bins are open below
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid='ignore'):
        confidences = np.bincount(places, weights=sureness, minlength=bins) / counts
        accuracies = np.bincount(places, weights=hits, minlength=bins) / counts
    error = np.nansum(np.abs(confidences - accuracies) * counts) / max(int(counts.sum()), 1)
    return Reliability(edges, counts, confidences, accuracies, float(error))


def choose_threshold(sureness: Floats, hits: Bools, wanted_risk: float, certainty: float = 0.95) -> float:
    """Choose the lowest threshold whose risk is, as far as the samples can tell, no more than is wanted.

    Twenty coverages from 5% to 100% are looked at. For each, the Clopper-Pearson bound says how large the risk can be;
    that one of them is exceeded has a probability of at most `1 - certainty`, which they share equally (in the manner
    of "Selective Classification for Deep Neural Networks", arXiv:1705.08500, and "Learn then Test", arXiv:2110.01052).
    The promise is for samples of the same source.

    Args:
        sureness: (N,) confidences of samples that the model was not trained on.
        hits: (N,) whether each answer is right.
        wanted_risk: Largest share of wrong answers, in (0, 1).
        certainty: Probability with which it is kept.

    Returns:
        The threshold.

    Raises:
        InputError: If no threshold is good enough, with what the samples can tell at best.
    """
    if not 0 < wanted_risk < 1:
        raise InputError(f'The wanted error rate is {wanted_risk}, it must be between 0 and 1.')
    curve = risk_coverage(sureness, hits)
    places = np.unique(np.searchsorted(curve.coverage, COVERAGES - 1e-9))
    answers = np.round(curve.coverage[places] * len(hits))
    wrong = np.round(curve.risk[places] * answers)
    doubt = (1 - certainty) / len(places)
    right = np.maximum(answers - wrong, 1)  # where none is, the bound is 1
    bounds = np.where(wrong < answers, scipy.special.betaincinv(wrong + 1, right, 1 - doubt), 1.0)
    good = places[bounds <= wanted_risk]
    if not len(good):
        raise InputError(
            f'No threshold keeps the error rate at {wanted_risk:.2%} with a certainty of {certainty:.0%}: '
            f'{len(hits):,} held-out crops, {int((~hits).sum()):,} of them wrong, promise {bounds.min():.2%} at best. '
            'Ask for more errors, or hold more frames out.'
        )
    return float(curve.thresholds[good[-1]])


def selective_metrics(sureness: Floats, hits: Bools, threshold: float) -> dict[str, Any]:
    """Say what a threshold does to a set of samples.

    Args:
        sureness: (N,) confidences.
        hits: (N,) whether each answer is right.
        threshold: The confidence from which on a sample is answered.

    Returns:
        `threshold`, `coverage`, `num_answered`, `accuracy` over the answered ones (None without any), `error_rate`.
    """
    answered = np.asarray(sureness) >= threshold
    accuracy = float(hits[answered].mean()) if answered.any() else None
    return {
        'threshold': threshold,
        'coverage': float(answered.mean()),
        'num_answered': int(answered.sum()),
        'accuracy': accuracy,
        'error_rate': None if accuracy is None else 1 - accuracy,
    }


def format_rejection(rejection: dict[str, Any]) -> str:
    """Show what is left when a model may reject: how much is answered, and how much of that is right."""
    accuracy = rejection['accuracy']
    return (
        f'answered with a confidence of {rejection["threshold"]:.4f} and more, for at most '
        f'{rejection["wanted_error_rate"]:.2%} wrong: {rejection["num_answered"]:,} crops, coverage '
        f'{rejection["coverage"]:.4f}, accuracy ' + ('-' if accuracy is None else f'{accuracy:.4f}')
    )
