"""The attention is compared with peers that compute the same."""

import pytest
import torch

from benchmarks.attention import PEERS, measure_attention
from timm_convattn import RelMha2d


@pytest.mark.parametrize(
    ('peer', 'projection', 'height', 'width'),
    [
        ('timm', 'qkv', 'pos_embed.height_rel', 'pos_embed.width_rel'),
        ('bottleneck-transformer-pytorch', 'to_qkv', 'pos_emb.rel_height', 'pos_emb.rel_width'),
        ('pad and reshape', 'qkv', None, None),
    ],
)
def test_peers_compute_what_ours_computes(peer, projection, height, width):
    if peer.startswith('bottleneck'):
        pytest.importorskip('bottleneck_transformer_pytorch', reason="needs the extra 'bench'")
    torch.manual_seed(0)
    ours, theirs = RelMha2d(24, 16, feat_size=5, num_heads=8, attn_proj=False), PEERS[peer](24, 16, 5)
    x = torch.randn(2, 24, 5, 5)
    with torch.no_grad():
        theirs.get_submodule(projection).weight.copy_(ours.qkv.weight)
        if height is None:
            theirs.tables.copy_(torch.stack([ours.height_rel, ours.width_rel]))
        else:
            theirs.get_parameter(height).copy_(ours.height_rel)
            theirs.get_parameter(width).copy_(ours.width_rel)
        # all outputs of timm's are pooled for its stride, which is none here
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-5)


def test_attention_is_measured_against_every_peer_in_time_and_memory():
    pytest.importorskip('bottleneck_transformer_pytorch', reason="needs the extra 'bench'")
    rows, growth = measure_attention(0.01, cases=[(1, 16, 4, 16)], sides=(4, 8))
    steps = ('forward', 'forward and backward')
    assert [(row.peer, row.case.split(', ')[1]) for row in rows] == [
        (peer, what) for peer in PEERS for what in (*steps, *(f'memory of {step}' for step in steps))
    ]
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
    assert [grown.case for grown in growth] == [f'{what} of {step}' for step in steps for what in ('time', 'memory')]
