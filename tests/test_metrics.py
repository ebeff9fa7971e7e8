"""Metrics against values counted by hand and against scikit-learn."""

import math
import tempfile
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from timm_convattn.metrics import (
    Accuracy,
    ClassReport,
    ConfusionMatrix,
    accuracy_by_size,
    compute_metrics,
    confusion_matrix,
)

NAMES = ['person', 'vehicle', 'bicycle', 'dog']


def test_hand_counted_example():
    #   true      p  p  p  v  v  b
    references = [0, 0, 0, 1, 1, 2]
    predictions = [0, 0, 1, 1, 2, 2]
    metrics = compute_metrics(predictions, references, NAMES[:3])
    assert metrics['confusion_matrix'] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert metrics['accuracy'] == pytest.approx(4 / 6)
    assert metrics['per_class']['person'] == pytest.approx({'precision': 1, 'recall': 2 / 3, 'f1': 0.8, 'support': 3})
    assert metrics['per_class']['vehicle'] == pytest.approx({'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'support': 2})
    assert metrics['per_class']['bicycle'] == pytest.approx({'precision': 0.5, 'recall': 1, 'f1': 2 / 3, 'support': 1})
    assert metrics['macro_f1'] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert metrics['weighted_f1'] == pytest.approx((3 * 0.8 + 2 * 0.5 + 2 / 3) / 6)


@pytest.mark.parametrize('seed', range(5))
def test_all_metrics_equal_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    references = rng.choice(4, 200, p=[0.6, 0.3, 0.07, 0.03])
    references[:4] = range(4)
    predictions = np.where(rng.random(200) < 0.7, references, rng.choice(3, 200))  # the last class hardly predicted
    ours = compute_metrics(predictions, references, NAMES)
    theirs = sk.precision_recall_fscore_support(references, predictions, labels=range(4), zero_division=0)
    for row, name in enumerate(NAMES):
        assert list(ours['per_class'][name].values()) == pytest.approx([column[row] for column in theirs])
    assert ours['accuracy'] == pytest.approx(sk.accuracy_score(references, predictions))
    for average in ('macro', 'weighted'):
        expected = sk.f1_score(references, predictions, average=average, zero_division=0)
        assert ours[f'{average}_f1'] == pytest.approx(expected)
    assert ours['confusion_matrix'] == sk.confusion_matrix(references, predictions).tolist()


def test_class_without_samples_is_named_and_left_out_of_the_macro_average():
    metrics = compute_metrics([0, 1, 3], [0, 1, 1], NAMES)
    assert metrics['absent_classes'] == ['bicycle', 'dog']
    assert metrics['per_class']['dog'] == {'precision': None, 'recall': None, 'f1': None, 'support': 0}
    assert metrics['macro_f1'] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics['confusion_matrix'][1] == [0, 1, 0, 1]  # the error itself is not hidden


def test_class_that_is_never_predicted_has_a_precision_of_zero():
    metrics = compute_metrics([0, 0], [0, 1], NAMES[:2])
    assert metrics['per_class']['vehicle'] == {'precision': 0.0, 'recall': 0.0, 'f1': 0.0, 'support': 1}


def test_there_is_never_a_nan():
    def numbers(value):
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [value] if isinstance(value, float) else [number for item in values for number in numbers(item)]

    for predictions, references in (([0], [0]), ([1], [0]), ([3, 3], [2, 2])):
        found = numbers(compute_metrics(predictions, references, NAMES))
        assert found
        assert not any(map(math.isnan, found))


def test_batches_give_what_one_call_gives_and_metrics_combine():
    predictions, references = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 1, 1])
    metric = evaluate.combine([Accuracy(NAMES), ClassReport(NAMES), ConfusionMatrix(NAMES)])
    for start in (0, 2):
        metric.add_batch(predictions=predictions[start : start + 2], references=references[start : start + 2])
    whole = compute_metrics(predictions, references, NAMES)
    assert metric.compute() == {key: value for key, value in whole.items() if key != 'num_samples'}


@pytest.mark.parametrize('labels', [[0.9, 1.2], [0.5], torch.tensor([0.0, 1.0]), np.array([True, False])])
def test_labels_that_are_not_integers_are_refused(labels):
    with pytest.raises(ValueError, match=r'^predictions are of type .*, wanted integers'):
        compute_metrics(labels, [0, 1][: len(labels)], NAMES)
    with pytest.raises(ValueError, match=r'^references are of type .*, wanted integers'):
        compute_metrics([0, 1][: len(labels)], labels, NAMES)


def test_metrics_write_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    metric = ClassReport(NAMES)
    metric.add_batch(predictions=[0, 1], references=[0, 2])
    assert metric.compute()['macro_f1'] == 0.5
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == []
    assert Path(metric.data_dir).is_relative_to(tmp_path)


def test_batch_without_labels_adds_nothing():
    metric = ConfusionMatrix(NAMES[:2])
    metric.add_batch(predictions=[], references=[])
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    assert metric.compute() == {'confusion_matrix': [[1, 1], [0, 0]]}


def test_column_that_no_metric_knows_is_refused():
    with pytest.raises(ValueError, match='sample_weight'):
        Accuracy(NAMES).add_batch(predictions=[0], references=[0], sample_weight=[1])


def test_metric_describes_itself():
    assert Accuracy(NAMES).description == 'Share of samples whose predicted class is the true one.'
    assert Accuracy(NAMES).inputs_description == 'predictions and references: labels, as integers'


def test_accuracy_by_size_groups_crops_from_small_to_large():
    hits = np.array([False, True, True, True, False])
    groups = accuracy_by_size(hits, np.array([3.0, 15.9, 16.0, 80.0, 64.0]))
    assert [(g.from_side, g.to_side, g.num_samples, g.accuracy) for g in groups] == [
        (0, 16, 2, 0.5),
        (16, 32, 1, 1.0),
        (32, 64, 0, None),
        (64, None, 2, 0.5),
    ]


def test_labels_of_no_class_are_refused():
    with pytest.raises(ValueError, match=r'^predictions hold labels from 0 to 4, wanted 0 to 3 \(4 classes\)\.$'):
        compute_metrics([0, 4], [0, 1], NAMES)
    with pytest.raises(ValueError, match=r'^references hold labels from -1 to 1, wanted 0 to 3'):
        compute_metrics([0, 1], [-1, 1], NAMES)


def test_nothing_to_compute_is_refused():
    with pytest.raises(ValueError, match=r'^There are no samples to evaluate on'):
        compute_metrics([], [], NAMES)
    with pytest.raises(ValueError, match=r'^There are no labels to compute a metric of'):
        Accuracy(NAMES).compute()


def test_confusion_matrix_has_true_classes_in_rows():
    assert confusion_matrix(np.array([0]), np.array([2]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
