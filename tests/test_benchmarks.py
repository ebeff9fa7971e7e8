"""Benchmarks compare things that compute the same, and say what they measured."""

import time

import pytest
import torch

from timm_convattn import RelMha2d
from timm_convattn.benchmarks import PadAndReshape, attention_rows, compare, peak_memory


def test_ratio_is_ours_over_theirs():
    row = compare('sleep', 'peer', lambda: time.sleep(0.004), lambda: time.sleep(0.002), seconds=0.1)
    assert row.ratio == pytest.approx(2, rel=0.5)
    assert (row.unit, row.case, row.peer) == ('ms', 'sleep', 'peer')
    assert row.ours == pytest.approx(4, rel=0.5)


def test_peak_memory_counts_what_lives_at_once():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(2**18)

    def together():
        return [torch.zeros(2**18) for _ in range(5)]

    assert peak_memory(one_after_the_other) == pytest.approx(2**20, rel=0.1)
    assert peak_memory(together) == pytest.approx(5 * 2**20, rel=0.1)


def test_the_usual_way_to_write_it_computes_what_ours_computes():
    torch.manual_seed(0)
    ours, peer = RelMha2d(24, 16, feat_size=5, num_heads=4, attn_proj=False), PadAndReshape(24, 16, 5, num_heads=4)
    with torch.no_grad():
        peer.qkv.weight.copy_(ours.qkv.weight)
        peer.tables.copy_(torch.stack([ours.height_rel, ours.width_rel]))
        x = torch.randn(2, 24, 5, 5)
        torch.testing.assert_close(peer(x), ours(x), rtol=1e-4, atol=1e-5)


def test_attention_is_measured_against_both_peers_in_time_and_memory():
    rows = attention_rows([(1, 16, 4, 16)], seconds=0.01)
    assert [(row.peer, row.case.split(', ')[1]) for row in rows] == [
        (peer, what)
        for peer in ('timm BottleneckAttn', 'pad and reshape')
        for what in ('forward', 'forward and backward', 'memory of both')
    ]
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
