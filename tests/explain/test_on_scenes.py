"""Explanations of a network trained on the embedded scenes, in which the pixels of every object are known."""

import numpy as np
import pytest
from made_once import trained_run
from PIL import Image
from silhouettes import draw_crops

from timm_convattn.explain import explain
from timm_convattn.inference import load_classifier

pytestmark = pytest.mark.slow


def resized(mask, size):
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


@pytest.fixture(scope='module')
def explain_crop():
    """Returns the explanation of a crop by the trained network."""
    classifier = load_classifier(trained_run())
    return lambda crop: explain(classifier.model, classifier.to_batch([crop.image]), classifier.class_names)


@pytest.fixture(scope='module')
def explained(explain_crop):
    """Pixels of the object and explanation, of validation crops 1.3 times as large as their boxes."""
    pairs = []
    for crop in draw_crops(range(340, 360), context=1.3):
        explanation = explain_crop(crop)
        shown = resized(crop.object, explanation.input_image.shape)
        if shown.any() and not shown.all():
            pairs.append((shown, explanation))
    assert len(pairs) > 100
    return pairs


def contrast(shown, values):
    """Mean over the object minus mean over the background."""
    return values[shown].mean() - values[~shown].mean()


def test_grad_cam_falls_on_the_object_more_than_on_the_background(explained):
    on_object = np.mean([each.grad_cam[shown].mean() for shown, each in explained])
    on_background = np.mean([each.grad_cam[~shown].mean() for shown, each in explained])
    contrasts = np.array([contrast(shown, each.grad_cam) for shown, each in explained])
    fraction = np.mean(contrasts > 0)
    measured = f'{on_object:.3f} on {len(contrasts)} objects, {on_background:.3f} around; more on {fraction:.0%}'
    assert on_object > 1.15 * on_background, measured
    assert fraction > 0.6, measured


def mean_column(values):
    return (values.sum(axis=0) * np.arange(values.shape[1])).sum() / values.sum()


def test_grad_cam_moves_with_the_object(explain_crop):
    at_left, at_right = (draw_crops(range(340, 348), context=1.6, aside=side) for side in (-1, 1))
    moved = []
    for crops in zip(at_left, at_right, strict=True):
        left, right = (explain_crop(crop).grad_cam for crop in crops)
        if left.any() and right.any():
            moved.append(mean_column(right) - mean_column(left))
    assert len(moved) > 50
    assert np.mean(moved) > 2 * np.std(moved) / len(moved) ** 0.5, f'{np.mean(moved):.2f} columns'


def test_contributions_sum_to_the_logits_of_a_trained_network(explained):
    for _, each in explained:
        logits = np.log(each.probabilities)  # up to a constant
        margin = logits[each.class_names.index(each.label)] - logits[each.class_names.index(each.runner_up)]
        assert each.margin.total == pytest.approx(float(margin), abs=1e-3)
