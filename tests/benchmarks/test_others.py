"""Models, input and building of crops are measured as they are used."""

import pytest

from benchmarks import input as input_module
from benchmarks.build import measure_build
from benchmarks.input import measure_input
from benchmarks.models import measure_models


@pytest.mark.slow
def test_models_are_compared_with_their_backbone_and_with_themselves():
    rows, _ = measure_models(0.01, augmented='aresnet18_relmha', backbone='resnet18', sizes={32: 2}, compiled=False)
    assert [(row.case, row.peer, row.unit) for row in rows] == [
        ('aresnet18_relmha, 32 px', 'resnet18', 'GMAC'),
        ('aresnet18_relmha, 2 images of 32 px, inference', 'resnet18', 'ms'),
        ('aresnet18_relmha, 2 images of 32 px, training', 'resnet18', 'ms'),
        ('aresnet18_relmha with transition_kernel=1, 32 px', 'resnet18', 'GMAC'),
        ('aresnet18_relmha with transition_kernel=1, 2 images of 32 px, inference', 'resnet18', 'ms'),
        ('aresnet18_relmha with transition_kernel=1, 2 images of 32 px, training', 'resnet18', 'ms'),
        ('aresnet18_relmha, channels last, 2 images of 32 px, inference', 'aresnet18_relmha', 'ms'),
        ('aresnet18_relmha, channels last, 2 images of 32 px, training', 'aresnet18_relmha', 'ms'),
    ]
    assert rows[0].ratio > rows[3].ratio > 1


def test_input_is_measured_in_images_and_grows_with_the_crops(tiny_crops, monkeypatch):
    monkeypatch.setattr(input_module, 'BATCH_SIZE', 4)
    (row,), (grown,) = measure_input(0.01, data=str(tiny_crops), shares=(0.5, 1.0))
    assert row.unit == 'images/s'
    assert row.ours > row.theirs > 0
    assert grown.sizes[1] == pytest.approx(2 * grown.sizes[0], abs=1)


@pytest.mark.slow
def test_building_is_measured_in_new_processes_in_time_and_memory(tiny_frames):
    rows, (grown,) = measure_build(0.01, flir_root=tiny_frames, shares=(0.5, 1.0), repeats=1)
    assert [(row.case.rpartition(', ')[2], row.peer, row.unit) for row in rows[:3]] == [
        ('2 processes', '1 process', 's'),
        ('1 process', 'decoding alone', 's'),
        ('2 processes', 'decoding alone', 's'),
    ]
    assert rows[3].unit == 'MiB'
    assert rows[3].ours > 100
    assert grown.of == 'frames'
