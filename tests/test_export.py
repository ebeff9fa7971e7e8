"""Exported files compute what the model computes, and hold their metadata."""

import json

import pytest
import timm
import torch

import timm_convattn  # noqa: F401  registers the models
from timm_convattn import export
from timm_convattn.errors import InputError
from timm_convattn.export import METADATA, export_model
from timm_convattn.inference import Classifier

NAMES = ('person', 'vehicle', 'bicycle', 'dog')


def classifier_of(name, img_size=64):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, in_chans=1).eval()
    if hasattr(model, 'set_input_size'):
        model.set_input_size(img_size)
    config = timm.data.resolve_model_data_config(model) | {'input_size': (1, img_size, img_size), 'mean': (0.5,)}
    return Classifier(model, NAMES, config)


def read_metadata(path, format):
    if format == 'onnx':
        onnx = pytest.importorskip('onnx')
        texts = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        return {key: json.loads(texts[key]) for key in ('class_names', 'input_size', 'mean', 'temperature', 'dynamic')}
    files = {METADATA: ''}
    if format == 'torchscript':
        torch.jit.load(path, _extra_files=files)
    else:
        torch.export.load(path, extra_files=files)
    return json.loads(files[METADATA])


SLOW = [
    pytest.param(name, format, True, marks=pytest.mark.slow)
    for name in ('aresnet18_relmha', 'avgg11_relmha', 'aaresnet18')
    for format in ('onnx', 'torchscript', 'pt2')
]


@pytest.mark.parametrize(
    ('name', 'format', 'dynamic'),
    [
        ('test_resnet', 'torchscript', True),
        ('test_resnet', 'pt2', False),
        ('test_resnet', 'onnx', False),
        *SLOW,
    ],
)
def test_the_file_computes_the_same_and_holds_its_class_names(name, format, dynamic, tmp_path):
    if format == 'onnx':
        pytest.importorskip('onnxscript')
        pytest.importorskip('onnxruntime')
        if torch.__version__.startswith('2.6.'):
            pytest.skip('torch 2.6 writes ONNX only with an onnxscript and a protobuf of its time')
    done = export_model(classifier_of(name), tmp_path / 'model.pt2', format, dynamic=dynamic)
    assert done.difference < 1e-4
    assert {batch for batch, *_ in done.checked} >= {1, 2, 5}
    assert len({tuple(where) for _, *where in done.checked}) == (3 if dynamic else 1)
    assert [path.name for path in tmp_path.iterdir()] == ['model.pt2']
    metadata = read_metadata(tmp_path / 'model.pt2', format)
    assert metadata['class_names'] == list(NAMES)
    assert metadata['input_size'] == [1, 64, 64]
    assert metadata['mean'] == [0.5]
    assert metadata['temperature'] == 1.0
    assert metadata['dynamic'] is dynamic


def test_another_size_becomes_the_models_own(tmp_path):
    classifier = classifier_of('aaresnet18')
    done = export_model(classifier, tmp_path / 'model.pt', 'torchscript', img_size=(32, 96))
    assert done.img_size == (32, 96)
    assert read_metadata(done.path, 'torchscript')['input_size'] == [1, 32, 96]
    assert len(classifier.model.layer4[0].conv1.attn.width_rel) == 2 * 6 - 1


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    (tmp_path / 'model.pt').write_text('what was there')
    monkeypatch.setitem(export.READERS, 'torchscript', lambda path: lambda images: torch.zeros(len(images), 4))
    with pytest.raises(
        InputError,
        match='The exported file and the model differ: on a batch of 2 images of 64 x 64',
    ):
        export_model(classifier_of('aaresnet18'), tmp_path / 'model.pt', 'torchscript')
    assert [path.name for path in tmp_path.iterdir()] == ['model.pt']
    assert (tmp_path / 'model.pt').read_text() == 'what was there'


def test_a_model_that_cannot_be_captured_is_refused(tmp_path):
    classifier = classifier_of('aaresnet18')
    classifier.model.forward = lambda x, *strange: x
    with pytest.raises(InputError, match=r'Export to TorchScript failed \('):
        export_model(classifier, tmp_path / 'model.pt', 'torchscript')
    with pytest.raises(InputError, match='img_size is 0 x 0'):
        export_model(classifier, tmp_path / 'model.pt', 'torchscript', img_size=0)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'timm-convattn\[onnx\]'"):
        export_model(classifier_of('aaresnet18'), tmp_path / 'model.onnx', 'onnx')
