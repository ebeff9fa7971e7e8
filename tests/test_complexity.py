"""Parameters and multiply-accumulates are those of a manual count, and README's file is up to date."""

import pytest
import timm
import torch

from timm_convattn import RelMha2d
from timm_convattn.complexity import count_models, measure_complexity
from timm_convattn.models import MODULES
from timm_convattn.results import ModelCosts, read_results


class OnlyAttention(torch.nn.Module):
    in_chans = 64

    def __init__(self):
        super().__init__()
        self.attn = RelMha2d(64, 64, feat_size=14, num_heads=8, device='meta')

    def forward(self, x):
        return self.attn(x)


def test_attention_is_counted_as_manually():
    positions, heads, dim_head = 14 * 14, 8, 8
    projections = positions * 64 * (3 * 64 + 64)
    position_tables = 2 * heads * positions * dim_head * (2 * 14 - 1)
    attention = heads * positions**2 * ((dim_head + 14 + 14) + dim_head)  # longer queries and keys, then the values
    found = measure_complexity(OnlyAttention(), 14)
    assert found.macs == projections + position_tables + attention
    assert found.attention_maps == [(14, 14)]


def test_resnet50_has_the_published_number_of_macs():
    model = timm.create_model('resnet50', device='meta')
    assert round(measure_complexity(model, 224).macs / 1e9, 2) == 4.09


def test_model_with_data_is_refused():
    with pytest.raises(ValueError, match=r"wanted timm\.create_model\(\.\.\., device='meta'\)"):
        measure_complexity(timm.create_model('resnet18'), 64)


def test_results_file_has_the_counts_of_every_current_model(root):
    costs = read_results(root / 'hub_cards' / 'results' / 'models.json', ModelCosts)
    assert {*timm.list_models(module=MODULES)} < set(costs.models)
    now = count_models(list(costs.models), num_classes=costs.num_classes)
    assert now.models == costs.models, 'run train_scripts/count_models.py'
