"""A trained model on images: its input is that of its evaluation, and it rejects what it was calibrated to reject."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import timm
import torch
from accelerate import Accelerator
from PIL import Image

from timm_convattn.data.sources import open_crops
from timm_convattn.errors import InputError
from timm_convattn.factory import load_model
from timm_convattn.hub import save_model
from timm_convattn.inference import Prediction, load_classifier, name_classes
from timm_convattn.rejection import Rejection
from timm_convattn.training.evaluation import evaluation_loader, predict

NAMES = ['person', 'vehicle', 'bicycle', 'dog']


def save(folder, in_chans=1, **changes):
    torch.manual_seed(0)
    model = timm.create_model('aresnet18_relmha', num_classes=4, in_chans=in_chans, img_size=32)
    torch.nn.init.normal_(model.fc.weight, std=0.5)
    config = timm.data.resolve_model_data_config(model) | {'input_size': (in_chans, 32, 32), 'crop_mode': 'squash'}
    config |= {'crop_pct': 1.0, 'mean': (0.4,) * in_chans, 'std': (0.2,) * in_chans}
    save_model(model, folder, NAMES, config | changes)
    return folder


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp('models') / 'grey')


@pytest.mark.parametrize('in_chans', [1, 3])
@pytest.mark.parametrize('crop_mode', ['squash', 'center'])
def test_logits_are_those_of_the_evaluation_bit_for_bit(tmp_path, tiny_crops, in_chans, crop_mode):
    folder = save(tmp_path / 'model', in_chans, crop_mode=crop_mode, interpolation='bicubic')
    crops = open_crops(str(tiny_crops), ('validation',))['validation']
    classifier = load_classifier(folder)
    evaluated = predict(
        load_model(folder), evaluation_loader(crops, classifier.data_config), Accelerator(cpu=True), NAMES
    )
    batch = classifier.to_batch([crop['image'] for crop in crops])
    assert batch.shape == (11, in_chans, 32, 32)
    with torch.inference_mode():
        logits = classifier.model(batch).numpy()
    np.testing.assert_array_equal(logits, evaluated.logits)
    predictions = classifier.classify([crop['image'] for crop in crops])
    assert [prediction.label for prediction in predictions] == [NAMES[index] for index in evaluated.predicted]
    np.testing.assert_allclose(
        [prediction.probabilities for prediction in predictions], scipy.special.softmax(logits.astype(float), axis=1)
    )


def test_temperature_and_threshold_are_those_of_the_rejection(tmp_path):
    folder = save(tmp_path / 'model')
    confidences = np.linspace(0.3, 1.0, 400)
    rejection = Rejection(3.0, confidences, confidences > 0.6)
    rejection.save(folder)
    image = Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30))
    plain, asked = load_classifier(str(folder)), load_classifier(str(folder), reject_at=0.05)
    assert plain.threshold == 0.0
    assert asked.threshold == rejection.threshold(0.05)
    with torch.inference_mode():
        logits = plain.model(plain.to_batch([image])).numpy().astype(float)
    (prediction,) = plain.classify([image])
    assert prediction.is_answered
    np.testing.assert_allclose(prediction.probabilities, scipy.special.softmax(logits / 3, axis=1)[0])
    low = asked.decide(np.zeros((1, 4), np.float32))[0]
    high = asked.decide(np.array([[100, 0, 0, 0]], np.float32))[0]
    assert not low.is_answered
    assert high.is_answered


def test_an_explanation_has_the_probabilities_of_the_classification(tmp_path):
    folder = save(tmp_path / 'model')
    Rejection(0.05, np.array([0.9]), np.array([True])).save(folder)
    classifier, crop = load_classifier(f'local-dir:{folder}'), Image.effect_noise((50, 30), 80)
    explanation = classifier.explain(crop, 'bicycle', (3, 4))
    assert explanation.probabilities.tolist() == pytest.approx(classifier.classify([crop])[0].probabilities, abs=1e-6)
    assert (explanation.label, explanation.position, explanation.input_image.shape) == ('bicycle', (3, 4), (30, 50))


def test_rejection_without_calibration_is_refused(saved):
    with pytest.raises(InputError, match=r'has no rejection\.json'):
        load_classifier(str(saved), reject_at=0.01)


def test_a_prediction_orders_its_classes():
    prediction = Prediction(('a', 'b', 'c'), (0.2, 0.6, 0.2), True)
    assert prediction.label == 'b'
    assert prediction.confidence == 0.6
    assert prediction.top(5) == [('b', 0.6), ('a', 0.2), ('c', 0.2)]
    assert prediction.top(1) == [('b', 0.6)]


def test_any_mode_of_image_is_accepted(saved, tmp_path):
    classifier = load_classifier(f'local-dir:{saved}')
    grey = Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40))
    for mode in ('RGB', 'RGBA', 'LA'):
        assert classifier.classify([grey.convert(mode)]) == classifier.classify([grey])
    assert classifier.classify([]) == []
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side
    grey.save(tmp_path / 'turned.png', exif=turned)
    assert classifier.open(tmp_path / 'turned.png').size == (30, 40)


def test_classes_without_names_are_imagenets_or_numbered():
    names = name_classes(timm.create_model('test_resnet', num_classes=1000, device='meta'))
    assert len(names) == 1000
    assert names[0].startswith('tench')
    assert name_classes(timm.create_model('test_resnet', num_classes=3, device='meta')) == (
        'class 0',
        'class 1',
        'class 2',
    )


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('aresnet50_relmha', r'aresnet50_relmha is not trained: .*finetune\.py --model aresnet50_relmha'),
        ('aavgg16.tv_in1k', 'is not trained'),
        ('vgg16_gap', 'is not trained'),
        ('resnet34d.none', 'could not be created|has no weights'),
        ('aresnet50_relmah', r"There is no model 'aresnet50_relmah'\. Did you mean aresnet50_relmha"),
        ('/', 'holds no model: it has no config.json'),
    ],
)
def test_models_that_cannot_classify_are_refused_with_what_to_do(name, message):
    with pytest.raises(InputError, match=message):
        load_classifier(name)


def test_loading_and_every_command_need_no_extra():
    script = """
import sys
for name in ('accelerate', 'datasets', 'evaluate', 'matplotlib', 'pyarrow', 'onnx', 'onnxruntime'):
    sys.modules[name] = None  # importing it fails
import timm_convattn.inference, timm_convattn.export, timm_convattn_cli, timm_convattn.factory
print('light')
"""
    finished = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False)
    assert finished.stdout == 'light\n', finished.stderr
