"""Explanations: their values, their text and their figure."""

import importlib.util
import io

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import timm_convattn  # noqa: F401
from timm_convattn.errors import InputError
from timm_convattn.explain import Explanation, draw_explanation, explain

CLASSES = ('person', 'vehicle', 'bicycle', 'dog')
find_spec = importlib.util.find_spec


@pytest.fixture(scope='module')
def model():
    """A small augmented network with confident predictions."""
    torch.manual_seed(0)
    created = timm.create_model('convattn', backbone='test_resnet', num_classes=4, in_chans=1, img_size=64, num_heads=4)
    nn.init.normal_(created.head.fc.weight)
    return created


@pytest.fixture(scope='module')
def images():
    return torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def plain():
    return timm.create_model('test_resnet', num_classes=4)


@pytest.fixture(scope='module')
def explanation(model, images):
    return explain(model, images, CLASSES)


def without(monkeypatch, *missing):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in missing else find_spec(name))


def test_the_predicted_class_is_explained_unless_another_is_asked_for(model, images, explanation):
    with torch.no_grad():
        logits = model.eval()(images)[0]
    np.testing.assert_allclose(explanation.probabilities, logits.softmax(0).numpy(), rtol=1e-4, atol=1e-6)
    order = logits.argsort(descending=True).tolist()
    assert explanation.label == explanation.predicted == CLASSES[order[0]]
    assert explanation.runner_up == CLASSES[order[1]]
    assert explanation.contributions.total == pytest.approx(logits[order[0]].item(), abs=1e-4)
    assert explanation.margin.total == pytest.approx((logits[order[0]] - logits[order[1]]).item(), abs=1e-4)

    asked = explain(model, images, CLASSES, label=CLASSES[order[2]])
    assert asked.label == CLASSES[order[2]]
    assert asked.predicted == asked.runner_up == CLASSES[order[0]]
    assert asked.confidence == pytest.approx(logits.softmax(0)[order[2]].item(), abs=1e-5)
    assert asked.margin.total == pytest.approx((logits[order[2]] - logits[order[0]]).item(), abs=1e-4)
    assert not np.array_equal(asked.grad_cam, explanation.grad_cam)


def test_probabilities_are_those_of_the_temperature(model, images, explanation):
    cooler = explain(model, images, CLASSES, temperature=2.0)
    expected = np.exp(np.log(explanation.probabilities) / 2)
    assert cooler.probabilities == pytest.approx(expected / expected.sum(), abs=1e-6)
    assert cooler.contributions == explanation.contributions


def test_maps_have_the_size_of_the_input_image(model, images, explanation):
    assert explanation.input_image.shape == explanation.grad_cam.shape == (64, 64)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    position = (29, 49)
    found = explain(model, images, CLASSES, position=position, input_image=image)
    np.testing.assert_array_equal(found.input_image, np.asarray(image))
    assert found.grad_cam.shape == found.attention_over_image().shape == (30, 50)
    (attention,) = found.attention
    last = attention.feat_size[0] - 1, attention.feat_size[1] - 1
    expected = attention.over_image((30, 50), position)[0]
    np.testing.assert_array_equal(found.attention_over_image(0), expected)
    assert attention.query_at(position, (30, 50)) == last
    np.testing.assert_array_equal(found.attention_over_image(0, 2), attention.over_image((30, 50), position, 2)[0])


def test_models_without_attention_have_grad_cam_alone(plain):
    found = explain(plain, torch.rand(1, 3, 64, 64), CLASSES)
    assert found.attention == ()
    assert found.contributions is found.margin is None
    assert found.grad_cam.max() > 0
    assert len(found.describe().splitlines()) == 2
    draw_explanation(found).savefig(io.BytesIO())


def test_the_input_image_is_the_input_without_its_normalisation(plain):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mean, std = (np.array(plain.pretrained_cfg[key], np.float32) for key in ('mean', 'std'))
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    for shown, wanted in ((pixels, pixels), (grey, grey[..., 0])):
        images = torch.from_numpy((shown.astype(np.float32) / 255 - mean) / std).permute(2, 0, 1)[None]
        np.testing.assert_array_equal(explain(plain, images, CLASSES).input_image, wanted)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'I;16', 'F'])
def test_images_of_any_mode_are_drawn_over(model, images, mode):
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    image = Image.fromarray(np.asarray(grey, np.uint16) * 9) if mode == 'I;16' else grey.convert(mode)
    found = explain(model, images, CLASSES, input_image=image).input_image
    assert found.dtype == np.uint8
    assert found.shape == (8, 8)
    if mode not in ('1', 'CMYK', 'P'):
        assert np.abs(found.astype(int) - np.asarray(grey) * (255 / 252 if mode in ('I;16', 'F') else 1)).max() <= 1


def test_it_is_frozen_and_the_model_is_left_unchanged(model, images):
    model.train()
    found = explain(model, images, CLASSES)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    with pytest.raises(AttributeError):
        found.label = 'dog'
    model.requires_grad_(False)
    with torch.inference_mode():
        again = explain(model, images.clone(), CLASSES)
    model.requires_grad_(True)
    np.testing.assert_array_equal(again.grad_cam, found.grad_cam)


def test_description_has_a_line_for_each_part(model, images):
    found = explain(model, images, CLASSES, position=(3, 60))
    first, logit, margin, cam, attention = found.describe().splitlines()
    assert first.startswith(f'{found.label} {found.confidence:.1%} ({found.runner_up} ')
    assert logit.startswith(
        f'logit of {found.label} {found.contributions.total:+.2f} = convolution {found.contributions.conv:+.2f}'
    )
    assert margin.startswith(f'margin over {found.runner_up} {found.margin.total:+.2f} = ')
    assert cam.startswith('Grad-CAM: row ')
    assert attention.startswith('attention stages.4.attn (4 x 4, 4 heads): row 3, column 60 attends most to row ')


def drawn_lines(figure):
    """Each drawn line of text, with its left, top, right and bottom in pixels."""
    renderer, lines = FigureCanvasAgg(figure).get_renderer(), []

    def record(gc, x, y, text, prop, angle, ismath=False, mtext=None):
        width, height, descent = renderer.get_text_width_height_descent(text, prop, ismath)
        upright = (x - height + descent, y - width, x + descent, y)
        lines.append((text, upright if angle == 90 else (x, y - height + descent, x + width, y + descent)))

    renderer.draw_text = record
    figure.draw(renderer)
    return lines


@pytest.mark.parametrize('size', [(64, 64), (60, 20), (20, 200)])
def test_no_text_of_the_figure_is_cut_off_or_overlaps(model, images, size):
    image = Image.new('L', size[::-1])
    figure = draw_explanation(explain(model, images, CLASSES, position=(5, 7), input_image=image))
    lines = drawn_lines(figure)
    assert {'input image', 'head 3', 'probability', 'convolution', 'bias', *CLASSES} <= {text for text, _ in lines}
    assert figure.bbox.width / figure.dpi < 18
    for index, (text, (left, top, right, bottom)) in enumerate(lines):
        assert left > -1 and top > -1 and right < figure.bbox.width + 1 and bottom < figure.bbox.height + 1, text
        for other, box in lines[index + 1 :]:
            apart = min(right, box[2]) - max(left, box[0]) < 1
            assert apart or min(bottom, box[3]) - max(top, box[1]) < 1, (text, other)


def test_the_maps_are_drawn_over_the_input_image(model, images, explanation):
    figure = draw_explanation(explanation)
    panels = {axes.get_title(): axes for axes in figure.findobj(lambda artist: hasattr(artist, 'get_title'))}
    cam = panels[f'Grad-CAM for {explanation.label}'].images
    np.testing.assert_array_equal(cam[0].get_array(), explanation.input_image)
    np.testing.assert_array_equal(cam[1].get_array(), explanation.grad_cam)
    np.testing.assert_array_equal(panels['head 2'].images[1].get_array(), explanation.attention_over_image(0, 2))


def test_without_the_libraries_there_is_no_grad_cam_and_no_figure(model, images, explanation, monkeypatch):
    without(monkeypatch, 'pytorch_grad_cam', 'matplotlib')
    found = explain(model, images, CLASSES)
    assert found.grad_cam is None
    assert 'Grad-CAM' not in found.describe()
    np.testing.assert_array_equal(found.attention_over_image(), explanation.attention_over_image())
    with pytest.raises(InputError, match=r"pip install 'timm-convattn\[explain\]'"):
        draw_explanation(found)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(images=torch.rand(2, 1, 64, 64)), r'images is \(2, 1, 64, 64\), wanted one image'),
        (dict(images=torch.rand(1, 64, 64)), r'images is \(1, 64, 64\), wanted one image'),
        (
            dict(class_names=['person']),
            r'returns \(1, 4\) for one image, wanted \(1, 1\), a logit for each of the classes',
        ),
        (dict(label='cat'), "There is no class 'cat', the classes are person, vehicle, bicycle, dog"),
        (dict(position=(64, 0)), 'position is row 64, column 0, but the image has 64 rows and 64 columns'),
        (dict(position=(0, -1)), 'position is row 0, column -1'),
        (dict(position=(9, 3), input_image=Image.new('L', (20, 9))), 'the image has 9 rows and 20 columns'),
    ],
)
def test_invalid_arguments_are_refused(model, images, change, message):
    with pytest.raises(InputError, match=message):
        explain(model, **{'images': images, 'class_names': CLASSES, **change})


def test_models_that_cannot_be_explained_are_refused(plain):
    with pytest.raises(InputError, match='VisionTransformer has no feature maps'):
        explain(timm.create_model('test_vit', num_classes=4), torch.rand(1, 3, 160, 160), CLASSES)
    with pytest.raises(InputError, match='the model has no attention'):
        explain(plain, torch.rand(1, 3, 64, 64), CLASSES, position=(1, 1))


def test_a_custom_network_with_a_single_class_is_explained():
    from test_grad_cam import CustomNetwork

    network = CustomNetwork()
    network.fc = nn.Linear(9, 1)
    found = explain(network, torch.randn(1, 1, 5, 5), ['hot'])
    assert isinstance(found, Explanation)
    assert (found.label, found.runner_up, found.confidence) == ('hot', None, 1.0)
    assert found.describe().startswith('hot 100.0%')
    draw_explanation(found).savefig(io.BytesIO())
