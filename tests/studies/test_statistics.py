"""Differences between rows: agree with scipy, cover the truth as often as promised, and see what is there."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from timm_convattn.studies.statistics import (
    accuracy,
    compare,
    counts_by_frame,
    least_visible_difference,
    macro_f1,
)


def runs(rng, seeds, probability, frames=60, per_frame=8, spread=0.0):
    """Runs of a row on the same labels: each seed as good as `probability` plus a deviation of its own."""
    labels = np.arange(frames * per_frame) % 3
    numbers = np.repeat(np.arange(frames), per_frame)
    counts = []
    for _ in range(seeds):
        right = rng.uniform(size=len(labels)) < probability + rng.normal(0, spread)
        counts.append(counts_by_frame(np.where(right, labels, (labels + 1) % 3), labels, numbers, 3))
    return counts


def test_scores_read_off_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    counts = counts_by_frame(predicted, labels, rng.integers(0, 9, 200), 4)
    assert counts.shape == (9, 4, 4)
    assert accuracy(counts.sum(0)) == pytest.approx((labels == predicted).mean())
    expected = f1_score(labels, predicted, labels=[0, 1, 2], average='macro')  # the fourth class has no sample
    assert macro_f1(counts.sum(0)) == pytest.approx(expected)


def test_test_over_seeds_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    ours, theirs = runs(rng, 6, 0.85, spread=0.01), runs(rng, 6, 0.8, spread=0.01)
    difference = compare(ours, theirs)
    scores = [[accuracy(run.sum(0)) for run in row] for row in (ours, theirs)]
    peer = scipy.stats.ttest_rel(*scores)
    assert difference.p_value == pytest.approx(peer.pvalue)
    interval = peer.confidence_interval(0.95)
    assert (difference.seed_low, difference.seed_high) == pytest.approx((interval.low, interval.high))
    assert difference.mean == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    assert difference.low < difference.mean < difference.high


def test_a_large_difference_is_clear_and_none_is_not():
    rng = np.random.default_rng(2)
    assert compare(runs(rng, 5, 0.95), runs(rng, 5, 0.8)).is_clear
    same = runs(rng, 5, 0.9)
    nothing = compare(same, same)
    assert (nothing.mean, nothing.p_value, nothing.is_clear) == (0.0, 1.0, False)


def test_equal_rows_are_rarely_called_different():
    rng = np.random.default_rng(3)
    clear = sum(compare(runs(rng, 3, 0.9, spread=0.01), runs(rng, 3, 0.9, spread=0.01)).is_clear for _ in range(60))
    assert clear <= 6


def test_one_seed_says_nothing_about_other_seeds():
    rng = np.random.default_rng(4)
    difference = compare(runs(rng, 1, 0.95), runs(rng, 1, 0.7))
    assert (difference.p_value, difference.seed_low, difference.least_visible) == (None, None, None)
    assert difference.low > 0
    assert not difference.is_clear


def test_least_visible_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(5)
    for seeds in (3, 5, 10):
        least = least_visible_difference(1.0, seeds)
        found = scipy.stats.ttest_1samp(rng.normal(least, 1.0, (20_000, seeds)), 0, axis=1).pvalue < 0.05
        assert found.mean() == pytest.approx(0.8, abs=0.06)


def test_macro_f1_is_compared_as_such():
    labels, frames = np.array([0] * 95 + [1] * 5), np.arange(100)
    all_frequent = counts_by_frame(np.zeros(100, int), labels, frames, 2)
    perfect = counts_by_frame(labels, labels, frames, 2)
    assert compare([perfect] * 2, [all_frequent] * 2).mean == pytest.approx(0.05)
    assert compare([perfect] * 2, [all_frequent] * 2, 'macro_f1').mean > 0.5


def test_runs_on_other_crops_are_not_compared():
    labels = np.zeros(10, int)
    a = counts_by_frame(labels, labels, np.arange(10), 2)
    b = counts_by_frame(labels, labels + 1, np.arange(10), 2)
    with pytest.raises(ValueError, match='not of the same seeds and crops'):
        compare([a], [b])
    with pytest.raises(ValueError, match='not of the same seeds and crops'):
        compare([a, a], [a])
