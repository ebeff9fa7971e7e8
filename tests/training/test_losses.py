"""Losses for rare classes equal the formulas of their papers, and the cross entropy for neutral parameters."""

import pytest
import torch
import torch.nn.functional as F

from timm_convattn.config import TrainConfig
from timm_convattn.training.losses import FocalLoss, LogitAdjustedLoss, create_loss

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_focal_loss_weights_each_sample_by_one_minus_its_probability():
    p = LOGITS.softmax(1)[torch.arange(6), LABELS]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    torch.testing.assert_close(FocalLoss(gamma=2.0)(LOGITS, LABELS), expected)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_neutral_parameters_make_both_losses_the_cross_entropy(smoothing):
    expected = F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(FocalLoss(0.0, smoothing)(LOGITS, LABELS), expected)
    torch.testing.assert_close(LogitAdjustedLoss([5, 5, 5, 5], 1.0, smoothing)(LOGITS, LABELS), expected)
    torch.testing.assert_close(LogitAdjustedLoss([90, 5, 4, 1], 0.0, smoothing)(LOGITS, LABELS), expected)


def test_focal_loss_of_saturated_logits_has_finite_gradients():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    FocalLoss(gamma=0.5)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad.isfinite().all()


def test_adjusted_logits_are_raised_by_the_logarithm_of_each_frequency():
    loss = LogitAdjustedLoss([80, 15, 5, 0], tau=2.0)
    raised = LOGITS + 2 * torch.tensor([0.80, 0.15, 0.05, 1.0]).log()  # a class without samples is not adjusted
    torch.testing.assert_close(loss(LOGITS, LABELS), F.cross_entropy(raised, LABELS))


def test_adjusted_loss_finds_the_boundary_between_equally_frequent_classes():
    # two classes around -1 and 1 on a line, 100 to 1: the cross entropy favours the frequent one
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(5_000, generator=generator) - 1, torch.randn(50, generator=generator) + 1])
    y = torch.cat([torch.zeros(5_000, dtype=torch.int64), torch.ones(50, dtype=torch.int64)])
    boundaries = {}
    for name, loss in (
        ('plain', create_loss(TrainConfig(), [5_000, 50])),
        ('adjusted', LogitAdjustedLoss([5_000, 50])),
    ):
        weight = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=100)

        def closure(weight=weight, optimizer=optimizer, loss=loss):
            optimizer.zero_grad()
            score = weight[0] * x + weight[1]
            value = loss(torch.stack([torch.zeros_like(score), score], dim=1), y)
            value.backward()
            return value

        optimizer.step(closure)
        boundaries[name] = (-weight[1] / weight[0]).item()
    assert abs(boundaries['adjusted']) < 0.4
    assert boundaries['plain'] > 1.5


def test_options_choose_the_loss():
    assert isinstance(create_loss(TrainConfig(loss='focal', focal_gamma=3.0), [1, 1]), FocalLoss)
    assert isinstance(create_loss(TrainConfig(loss='logit_adjusted'), [1, 1]), LogitAdjustedLoss)
    assert isinstance(create_loss(TrainConfig(label_smoothing=0.1), [1, 1]), torch.nn.CrossEntropyLoss)
