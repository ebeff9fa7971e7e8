"""Differences between rows of a study, tested and not just ranked.

Runs of two rows are paired twice: by their seed (the same order of the same augmented crops) and by the crops that they
are evaluated on. Crops of one frame are alike, so frames, not crops, are what the bootstrap draws anew.

A study compares several rows at once, and the more it compares, the likelier chance alone shows a difference somewhere.
What is called clear is so for the study as a whole: p values are adjusted for their number (Holm).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.stats

from timm_convattn.metrics import confusion_matrix

__all__ = [
    'SCORES',
    'Difference',
    'Score',
    'adjust_for_number',
    'compare',
    'counts_by_frame',
    'holm',
    'least_visible_difference',
]

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Score = Literal['accuracy', 'macro_f1']

DRAWS = 4_000
LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """How a score of one row differs from that of another."""

    seeds: int
    """Seeds that both have."""
    mean: float
    """Mean over the seeds."""
    seed_low: float | None
    """95% interval over seeds (paired t): what to expect of other seeds, on these crops. None with one seed."""
    seed_high: float | None
    p_value: float | None
    """Of the paired t test over seeds; None with one seed."""
    adjusted_p_value: float | None
    """The same, adjusted for the number of comparisons that were made together."""
    low: float
    """95% interval of the bootstrap over seeds and frames: what to expect of other seeds and other frames."""
    high: float
    deviation: float | None
    """Standard deviation of the difference over seeds; None with one seed."""
    least_visible: float | None
    """Smallest difference that so many seeds find in four of five studies, beside so many other comparisons; None with
    one seed."""

    @property
    def is_clear_alone(self) -> bool:
        """Whether neither interval holds zero."""
        if self.seed_low is None or self.seed_high is None:
            return False
        return self.seed_low * self.seed_high > 0 and self.low * self.high > 0

    @property
    def is_clear(self) -> bool:
        """Whether it is clear alone, and still is when all that were compared together are counted."""
        return self.is_clear_alone and self.adjusted_p_value is not None and self.adjusted_p_value < 1 - LEVEL


def counts_by_frame(predicted: Integers, labels: Integers, frames: Integers, num_classes: int) -> npt.NDArray[np.int64]:
    """Count hits and confusions within each frame.

    Args:
        predicted: (N,) predicted classes.
        labels: (N,) true classes.
        frames: (N,) which frame each crop is of, from 0 on.
        num_classes: Number of classes.

    Returns:
        (frames, num_classes, num_classes), true classes in rows.
    """
    cells = num_classes**2
    confusion_matrix(labels, predicted, num_classes)  # refuses labels that are no class
    counts = np.bincount(frames * cells + labels * num_classes + predicted, minlength=(int(frames.max()) + 1) * cells)
    return counts.reshape(-1, num_classes, num_classes)


def accuracy(matrices: Floats) -> Floats:
    """Read the accuracy off confusion matrices (..., C, C)."""
    hits: Floats = np.trace(matrices, axis1=-2, axis2=-1)
    share: Floats = hits / matrices.sum(axis=(-2, -1))
    return share


def macro_f1(matrices: Floats) -> Floats:
    """Read the mean F1 of the classes that have samples off confusion matrices (..., C, C)."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    mean: Floats = np.where(support > 0, f1, 0).sum(axis=-1) / (support > 0).sum(axis=-1)
    return mean


SCORES = {'accuracy': accuracy, 'macro_f1': macro_f1}


def compare(ours: Sequence[Integers], theirs: Sequence[Integers], score: Score = 'accuracy') -> Difference:
    """Compare two rows.

    Args:
        ours: For each seed what `counts_by_frame` gives of its run.
        theirs: The same of the other row, of the same seeds in the same order, on the same crops.
        score: What is compared.

    Raises:
        ValueError: If there are no seeds, or the two are not of the same crops.
    """
    a, b = np.stack(ours).astype(np.float64), np.stack(theirs).astype(np.float64)  # seeds, frames, C, C
    if a.shape != b.shape or not np.array_equal(a.sum(axis=-1), b.sum(axis=-1)):
        raise ValueError(f'Counts of shapes {a.shape} and {b.shape} are not of the same seeds and crops.')
    read = SCORES[score]
    over_seeds = read(a.sum(axis=1)) - read(b.sum(axis=1))
    mean, seeds = float(over_seeds.mean()), len(over_seeds)
    seed_low = seed_high = p_value = deviation = least = None
    if seeds > 1:
        deviation = float(over_seeds.std(ddof=1))
        reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * deviation / np.sqrt(seeds))
        seed_low, seed_high = mean - reach, mean + reach
        p_value = float(scipy.stats.ttest_1samp(over_seeds, 0).pvalue) if deviation > 0 else float(mean == 0)
        least = least_visible_difference(deviation, seeds)
    low, high = _bootstrap(a, b, score)
    return Difference(seeds, mean, seed_low, seed_high, p_value, p_value, low, high, deviation, least)


def adjust_for_number(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Adjust differences for how many of them were tested together; those of one seed are not tested.

    Args:
        differences: What was compared together, by any name.
    """
    tested = {name: found for name, found in differences.items() if found.p_value is not None}
    p_values = [found.p_value for found in tested.values() if found.p_value is not None]
    adjusted = dict(zip(tested, holm(p_values), strict=True))

    def beside_the_others(name: str, found: Difference) -> Difference:
        if found.deviation is None:
            return found
        least = least_visible_difference(found.deviation, found.seeds, len(tested))
        return replace(found, adjusted_p_value=adjusted[name], least_visible=least)

    return {name: beside_the_others(name, found) for name, found in differences.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, so that any below 5% among true nulls is as rare as with one of them.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p_values, kind='stable')
    factors = np.arange(len(p_values), 0, -1)  # the smallest counts for all, the largest for itself
    stepped = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]), 1)
    return [float(stepped[place]) for place in np.argsort(order)]


def least_visible_difference(deviation: float, seeds: int, comparisons: int = 1) -> float:
    """Give the smallest difference that a paired t test over seeds finds with a power of 80%, at a level of 5%.

    Args:
        deviation: Standard deviation of the differences over seeds.
        seeds: Number of seeds.
        comparisons: That are made together: Holm's test holds the smallest p value against the level's share of each.
    """
    level = (1 - LEVEL) / comparisons
    reach = scipy.stats.t.ppf(1 - level / 2, seeds - 1) + scipy.stats.t.ppf(POWER, seeds - 1)
    return float(reach * deviation / np.sqrt(seeds))


def _bootstrap(a: Floats, b: Floats, score: Score) -> tuple[float, float]:
    """Draw seeds and frames anew, independently of each other, and give the interval of the mean difference."""
    seeds, frames, classes, _ = a.shape
    rng = np.random.default_rng(0)
    times_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
    times_frame = rng.multinomial(frames, np.full(frames, 1 / frames), size=DRAWS).astype(np.float64)

    def scores(counts: Floats) -> Floats:
        of_frame = counts.transpose(1, 0, 2, 3).reshape(frames, -1)
        return SCORES[score]((times_frame @ of_frame).reshape(DRAWS, seeds, classes, classes))

    means = ((scores(a) - scores(b)) * times_seed).sum(axis=1) / seeds
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
