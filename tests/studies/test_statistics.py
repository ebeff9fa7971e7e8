"""Differences between arms agree with scipy, cover the truth as often as stated, and detect what is there."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from timm_convattn.metrics import accuracy, macro_f1
from timm_convattn.studies.statistics import adjust, compare, counts_by_frame, holm, minimum_detectable_difference


def runs(rng, seeds, probability, frames=60, per_frame=8, spread=0.0):
    """Runs of an arm on the same labels: each seed has the accuracy `probability` plus its own deviation."""
    labels = np.arange(frames * per_frame) % 3
    numbers = np.repeat(np.arange(frames), per_frame)
    counts = []
    for _ in range(seeds):
        right = rng.uniform(size=len(labels)) < probability + rng.normal(0, spread)
        counts.append(counts_by_frame(np.where(right, labels, (labels + 1) % 3), labels, numbers, 3))
    return counts


def test_scores_of_counts_are_those_of_scikit_learn():
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


def test_large_difference_is_significant_and_none_is_not():
    rng = np.random.default_rng(2)
    assert compare(runs(rng, 5, 0.95), runs(rng, 5, 0.8)).significant
    same = runs(rng, 5, 0.9)
    nothing = compare(same, same)
    assert (nothing.mean, nothing.p_value, nothing.significant) == (0.0, 1.0, False)


def test_equal_arms_are_rarely_significantly_different():
    rng = np.random.default_rng(3)
    pairs = ((runs(rng, 3, 0.9, spread=0.01), runs(rng, 3, 0.9, spread=0.01)) for _ in range(60))
    assert sum(compare(*pair).significant for pair in pairs) <= 6


def test_one_seed_says_nothing_about_other_seeds():
    rng = np.random.default_rng(4)
    difference = compare(runs(rng, 1, 0.95), runs(rng, 1, 0.7))
    assert (difference.p_value, difference.seed_low, difference.minimum_detectable) == (None, None, None)
    assert difference.low > 0
    assert not difference.significant


def test_minimum_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(5)
    for seeds in (3, 5, 10):
        least = minimum_detectable_difference(1.0, seeds)
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


def test_holm_is_that_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_of_many_true_nulls_one_is_rarely_found_in_a_study():
    p_values = np.random.default_rng(6).uniform(size=(4000, 6))
    found = np.mean([min(holm(row)) < 0.05 for row in p_values])
    assert found == pytest.approx(0.05, abs=0.012)
    assert np.mean(p_values.min(axis=1) < 0.05) > 0.2  # without


def test_comparisons_are_adjusted_together_except_those_of_one_seed():
    rng = np.random.default_rng(7)
    plain = runs(rng, 4, 0.8, spread=0.02)
    alone = {f'row {n}': compare(runs(rng, 4, 0.83, spread=0.02), plain) for n in range(3)}
    alone['one seed'] = compare(plain[:1], plain[1:2])
    together = adjust(alone)
    assert list(together) == list(alone)
    tested = list(alone)[:3]
    assert [together[name].adjusted_p_value for name in tested] == holm([alone[name].p_value for name in tested])
    assert together['one seed'] == alone['one seed']
    for name in tested:
        assert together[name].p_value == alone[name].p_value
        assert together[name].minimum_detectable == pytest.approx(
            minimum_detectable_difference(alone[name].deviation, 4, 3)
        )
        assert together[name].minimum_detectable > alone[name].minimum_detectable


def test_significant_difference_need_not_be_so_among_many():
    rng = np.random.default_rng(8)
    found = compare(runs(rng, 3, 0.95, spread=0.01), runs(rng, 3, 0.8, spread=0.01))
    found = replace(found, p_value=0.03, adjusted_p_value=0.03, seed_low=0.01, seed_high=0.2)
    assert adjust({'found': found})['found'].significant
    nulls = {str(n): replace(found, p_value=0.5) for n in range(3)}
    among = adjust({'found': found, **nulls})['found']
    assert among.adjusted_p_value == pytest.approx(0.12)
    assert (among.significant_unadjusted, among.significant) == (True, False)


def test_minimum_detectable_difference_is_found_at_the_first_level_of_holm():
    rng = np.random.default_rng(9)
    least = minimum_detectable_difference(1.0, 5, comparisons=4)
    found = scipy.stats.ttest_1samp(rng.normal(least, 1.0, (20_000, 5)), 0, axis=1).pvalue < 0.05 / 4
    assert found.mean() == pytest.approx(0.8, abs=0.06)
