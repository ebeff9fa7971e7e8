"""transformers opens saved models, for as long as this package is imported."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from timm_convattn.hub import save_model
from timm_convattn.models.config import model_data_config

transformers = pytest.importorskip('transformers')

CLASSES = ['person', 'vehicle', 'bicycle', 'dog']
INPUT = dict(input_size=(3, 60, 60), interpolation='bilinear', mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0)


@pytest.fixture(params=['aresnet18_relmha', 'avgg11_relmha', 'aaresnet50', 'aavgg16', 'convattn'])
def saved(request, tmp_path):
    """A model and the folder that it is saved in."""
    torch.manual_seed(0)
    args = dict(backbone='mobilenetv4_conv_small', stage=-2) if request.param == 'convattn' else {}
    model = timm.create_model(request.param, num_classes=4, img_size=60, **args).eval()
    save_model(model, tmp_path, CLASSES, dict(INPUT, crop_mode='squash'))
    return model, tmp_path


def test_auto_model_gives_the_same_logits_and_knows_the_classes(saved):
    model, folder = saved
    again = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert [again.config.id2label[index] for index in range(4)] == CLASSES
    images = torch.randn(2, 3, 60, 60)
    with torch.inference_mode():
        assert torch.equal(again(images).logits, model(images))


def test_pipeline_classifies_a_grey_image_as_timm_does(saved):
    model, folder = saved
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 50), dtype=np.uint8))
    found = transformers.pipeline('image-classification', model=str(folder))(image)
    transform = timm.data.create_transform(
        **model_data_config(timm.create_model(f'local-dir:{folder}', pretrained=True))
    )
    with torch.inference_mode():
        expected = model(transform(image.convert('RGB')).unsqueeze(0)).softmax(-1)[0]
    assert {entry['label']: pytest.approx(entry['score'], abs=1e-4) for entry in found} == dict(
        zip(CLASSES, expected.tolist(), strict=True)
    )
