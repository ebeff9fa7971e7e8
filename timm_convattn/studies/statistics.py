"""Differences between the arms of a study, with confidence intervals and tests.

Runs of two arms are paired twice: by seed (the same order of the same augmented crops) and by the crops they are
evaluated on. Crops of one frame are correlated, so the bootstrap resamples frames, not crops.

A study makes several comparisons at once, and the more it makes, the likelier one of them is significant by chance.
P values are therefore adjusted for the number of comparisons (Holm).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from timm_convattn.metrics import accuracy, confusion_matrix, macro_f1
from timm_convattn.results import Difference, Score

__all__ = ['SCORES', 'adjust', 'compare', 'counts_by_frame', 'holm', 'minimum_detectable_difference']

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

RESAMPLES = 4_000
LEVEL = 0.95
POWER = 0.8
SCORES = {'accuracy': accuracy, 'macro_f1': macro_f1}


def counts_by_frame(predicted: Integers, labels: Integers, frames: Integers, num_classes: int) -> npt.NDArray[np.int64]:
    """Compute the confusion matrix of each frame.

    Args:
        predicted: (N,) predicted classes.
        labels: (N,) true classes.
        frames: (N,) index of each crop's frame.
        num_classes: Number of classes.

    Returns:
        (frames, num_classes, num_classes), true classes in rows.
    """
    cells = num_classes**2
    confusion_matrix(labels, predicted, num_classes)  # raises on labels out of range
    counts = np.bincount(frames * cells + labels * num_classes + predicted, minlength=(int(frames.max()) + 1) * cells)
    return counts.reshape(-1, num_classes, num_classes)


def compare(ours: Sequence[Integers], theirs: Sequence[Integers], score: Score = 'accuracy') -> Difference:
    """Compare two arms.

    Args:
        ours: Result of `counts_by_frame` for each seed.
        theirs: The same for the other arm: same seeds in the same order, same crops.
        score: The score to compare.

    Raises:
        ValueError: If there are no seeds, or the two arms have different seeds or crops.
    """
    a, b = np.stack(ours).astype(np.float64), np.stack(theirs).astype(np.float64)  # seeds, frames, C, C
    if a.shape != b.shape or not np.array_equal(a.sum(axis=-1), b.sum(axis=-1)):
        raise ValueError(f'Counts of shapes {a.shape} and {b.shape} are not of the same seeds and crops.')
    over_seeds = SCORES[score](a.sum(axis=1)) - SCORES[score](b.sum(axis=1))
    mean, seeds = float(over_seeds.mean()), len(over_seeds)
    low, high = _bootstrap(a, b, score)
    if seeds == 1:
        return Difference(seeds, mean, low, high)
    deviation = float(over_seeds.std(ddof=1))
    reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * deviation / np.sqrt(seeds))
    p_value = float(scipy.stats.ttest_1samp(over_seeds, 0).pvalue) if deviation > 0 else float(mean == 0)
    significant = (mean - reach) * (mean + reach) > 0 and low * high > 0
    return Difference(
        *(seeds, mean, low, high, mean - reach, mean + reach, deviation, p_value, p_value),
        minimum_detectable=minimum_detectable_difference(deviation, seeds),
        significant_unadjusted=significant,
        significant=significant and p_value < 1 - LEVEL,
    )


def adjust(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Adjust differences for the number of comparisons; those with one seed are not tested and do not count.

    Args:
        differences: Comparisons made together, by arm.
    """
    p_values = {name: found.p_value for name, found in differences.items() if found.p_value is not None}
    adjusted = dict(zip(p_values, holm([*p_values.values()]), strict=True))

    def adjust_one(name: str, found: Difference) -> Difference:
        if found.deviation is None:
            return found
        return replace(
            found,
            adjusted_p_value=adjusted[name],
            minimum_detectable=minimum_detectable_difference(found.deviation, found.seeds, len(adjusted)),
            significant=found.significant_unadjusted and adjusted[name] < 1 - LEVEL,
        )

    return {name: adjust_one(name, found) for name, found in differences.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, controlling the family-wise error rate.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p_values, kind='stable')
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]), 1)
    return [float(stepped[rank]) for rank in np.argsort(order)]


def minimum_detectable_difference(deviation: float, seeds: int, comparisons: int = 1) -> float:
    """Return the smallest difference that a paired t test over seeds detects with a power of 80%, at a level of 5%.

    Args:
        deviation: Standard deviation of the differences over seeds.
        seeds: Number of seeds.
        comparisons: Number of comparisons made together: Holm tests the smallest p value at the level divided by it.
    """
    level = (1 - LEVEL) / comparisons
    reach = scipy.stats.t.ppf(1 - level / 2, seeds - 1) + scipy.stats.t.ppf(POWER, seeds - 1)
    return float(reach * deviation / np.sqrt(seeds))


def _bootstrap(a: Floats, b: Floats, score: Score) -> tuple[float, float]:
    """Resample seeds and frames independently and return the interval of the mean difference."""
    seeds, frames, classes, _ = a.shape
    rng = np.random.default_rng(0)
    times_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    times_frame = rng.multinomial(frames, np.full(frames, 1 / frames), size=RESAMPLES).astype(np.float64)

    def scores(counts: Floats) -> Floats:
        of_frame = counts.transpose(1, 0, 2, 3).reshape(frames, -1)
        return SCORES[score]((times_frame @ of_frame).reshape(RESAMPLES, seeds, classes, classes))

    means = ((scores(a) - scores(b)) * times_seed).sum(axis=1) / seeds
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
