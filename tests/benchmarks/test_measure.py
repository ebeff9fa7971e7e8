"""Measuring: known ratios, peaks and exponents."""

import time

import pytest
import torch

from benchmarks.measure import compare, fit_growth, peak_memory


def test_ratio_is_ours_over_theirs_per_item():
    row = compare(
        'sleep', 'peer', lambda: (lambda: time.sleep(0.08), lambda: time.sleep(0.04)), seconds=0.1, rounds=2, per=2
    )
    assert row.ratio == pytest.approx(2, rel=0.5)
    assert (row.unit, row.case, row.peer) == ('ms', 'sleep', 'peer')
    assert row.ours == pytest.approx(40, rel=0.5)


def test_every_round_makes_both_functions_again():
    made = []
    compare('x', 'y', lambda: made.append(1) or (int, int), seconds=0, rounds=3)
    assert len(made) == 3


def test_exponent_is_that_of_the_power_law():
    grown = fit_growth('time', 'positions', 's', {size: 3 * size**1.5 for size in (10, 20, 50)})
    assert grown.exponent == pytest.approx(1.5)
    assert grown.sizes == [10, 20, 50]


def test_peak_memory_counts_what_is_alive_at_once():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(2**18)

    def together():
        return [torch.zeros(2**18) for _ in range(5)]

    assert peak_memory(one_after_the_other) == pytest.approx(2**20, rel=0.1)
    assert peak_memory(together) == pytest.approx(5 * 2**20, rel=0.1)
