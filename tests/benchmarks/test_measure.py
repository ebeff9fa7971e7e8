"""Measuring: ratios, peaks and exponents of things whose truth is known."""

import time

import pytest
import torch

from timm_convattn.benchmarks.measure import compare, growth, peak_memory


def test_ratio_is_ours_over_theirs_for_each_of_what_a_call_does():
    row = compare(
        'sleep', 'peer', lambda: (lambda: time.sleep(0.08), lambda: time.sleep(0.04)), seconds=0.1, rounds=2, per=2
    )
    assert row.ratio == pytest.approx(2, rel=0.5)
    assert (row.unit, row.case, row.peer) == ('ms', 'sleep', 'peer')
    assert row.ours == pytest.approx(40, rel=0.5)


def test_every_round_makes_both_things_anew():
    made = []
    compare('x', 'y', lambda: made.append(1) or (int, int), seconds=0, rounds=3)
    assert len(made) == 3


def test_exponent_is_that_of_the_power():
    grown = growth('time', 'positions', 's', {size: 3 * size**1.5 for size in (10, 20, 50)})
    assert grown.exponent == pytest.approx(1.5)
    assert grown.sizes == [10, 20, 50]


def test_peak_memory_counts_what_lives_at_once():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(2**18)

    def together():
        return [torch.zeros(2**18) for _ in range(5)]

    assert peak_memory(one_after_the_other) == pytest.approx(2**20, rel=0.1)
    assert peak_memory(together) == pytest.approx(5 * 2**20, rel=0.1)
