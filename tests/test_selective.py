"""Selective classification: agreement with definitions and scikit-learn; thresholds keep the target error rate."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from timm_convattn.errors import InputError
from timm_convattn.hub.loading import load_rejection
from timm_convattn.predictions import Predictions
from timm_convattn.rejection import Rejection
from timm_convattn.selective import (
    choose_threshold,
    confidence,
    fit_temperature,
    reliability,
    risk_coverage,
    selective_metrics,
)

RNG = np.random.default_rng(0)


def samples(count, rng=RNG):
    """Return samples whose confidence is the probability that the answer is right."""
    confidences = rng.uniform(0.4, 1.0, count)
    return confidences, rng.uniform(size=count) < confidences


def test_risk_at_each_coverage_is_that_of_the_most_confident_samples():
    confidences, hits = samples(500)
    curve = risk_coverage(confidences, hits)
    order = np.argsort(-confidences)
    expected = np.cumsum(~hits[order]) / np.arange(1, 501)
    np.testing.assert_allclose(curve.risk, expected)
    np.testing.assert_allclose(curve.coverage, np.arange(1, 501) / 500)
    assert curve.area == pytest.approx(expected.mean())
    assert curve.risk[-1] == pytest.approx(1 - hits.mean())


def test_area_does_not_depend_on_the_order_of_equal_confidences():
    hits = np.array([True, False, True, True, False, True])
    confidences = np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.5])
    areas = [risk_coverage(confidences[order], hits[order]).area for order in map(RNG.permutation, [6] * 20)]
    assert np.ptp(areas) < 1e-12
    assert len(risk_coverage(confidences, hits).thresholds) == 2
    assert risk_coverage(np.ones(6), hits).area == pytest.approx(1 / 3)  # no order at all: the error rate


def test_minimum_area_is_that_of_a_confidence_that_ranks_errors_last():
    _, hits = samples(300)
    perfect = risk_coverage(hits + RNG.uniform(0, 0.1, 300), hits)
    assert perfect.area == pytest.approx(perfect.minimum_area)
    assert risk_coverage(RNG.uniform(size=300), hits).area > 2 * perfect.minimum_area


def test_reliability_agrees_with_scikit_learn_and_is_0_if_calibrated():
    confidences, hits = samples(200_000)
    found = reliability(confidences, hits, bins=10)
    accuracies, means = calibration_curve(hits, confidences, n_bins=10)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracies[filled], accuracies, atol=1e-12)
    np.testing.assert_allclose(found.confidences[filled], means, atol=1e-12)
    assert found.error < 0.005
    assert reliability(np.full(10, 1.0), np.zeros(10, bool)).error == 1.0


def test_temperature_undoes_a_scaling_of_calibrated_logits():
    logits = RNG.normal(size=(40_000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) > RNG.uniform(size=(40_000, 1))).argmax(1)
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.03)
    assert fit_temperature(0.4 * logits, labels) == pytest.approx(0.4, rel=0.03)
    before, after = confidence(3 * logits), confidence(3 * logits, 3.0)
    assert after.mean() < before.mean()
    with pytest.raises(ValueError, match='finite'):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))


def test_threshold_keeps_the_error_rate_as_often_as_its_level_states():
    kept = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        threshold = choose_threshold(*samples(1_500, rng), target_error_rate=0.15)
        kept += selective_metrics(*samples(50_000, rng), threshold).error_rate <= 0.15
    assert kept >= 57


def test_higher_target_answers_more_and_impossible_ones_are_refused():
    confidences, hits = samples(2_000)
    thresholds = [choose_threshold(confidences, hits, risk) for risk in (0.12, 0.16, 0.25)]
    assert thresholds == sorted(thresholds, reverse=True)
    with pytest.raises(InputError, match=r'50 held-out crops, .* wrong, the lowest bound is \d+\.\d+%'):
        choose_threshold(confidences[:50], hits[:50], 0.001)
    with pytest.raises(InputError, match='between 0 and 1'):
        choose_threshold(confidences, hits, 0.0)


def test_nothing_answered_has_no_accuracy():
    metrics = selective_metrics(np.array([0.2, 0.3]), np.array([True, False]), 0.9)
    assert (metrics.coverage, metrics.accuracy, metrics.error_rate) == (0.0, None, None)


def test_predictions_and_rejection_are_read_as_they_were_written(tmp_path):
    logits = RNG.normal(size=(200, 3)).astype(np.float32)
    predictions = Predictions(logits, RNG.integers(0, 3, 200), ('a', 'b', 'c'))
    predictions.save(tmp_path / 'p.safetensors')
    read = Predictions.load(tmp_path / 'p.safetensors')
    assert np.array_equal(read.logits, logits)
    assert np.array_equal(read.hits, logits.argmax(1) == predictions.labels)
    assert read.class_names == ('a', 'b', 'c')
    rejection = Rejection.learn(predictions)
    rejection.save(tmp_path)
    (tmp_path / 'config.json').touch()
    again = load_rejection(f'local-dir:{tmp_path}')
    assert again.threshold(0.99) == rejection.threshold(0.99)
    assert again.temperature == rejection.temperature


@pytest.mark.parametrize('content', ['{', '[]', '{"temperature": 1, "held_out": {"confidence": [], "hit": []}}'])
def test_damaged_files_are_refused_by_name(tmp_path, content):
    (tmp_path / 'config.json').touch()
    (tmp_path / 'rejection.json').write_text(content)
    with pytest.raises(InputError, match=r'rejection\.json'):
        load_rejection(f'local-dir:{tmp_path}')
    (tmp_path / 'p.safetensors').write_text(content)
    with pytest.raises(InputError, match=r'p\.safetensors cannot be read'):
        Predictions.load(tmp_path / 'p.safetensors')


def test_a_model_without_held_out_crops_names_the_option(tmp_path):
    (tmp_path / 'config.json').touch()
    with pytest.raises(InputError, match='--hold-out'):
        load_rejection(f'local-dir:{tmp_path}')
