"""A captured graph takes all sizes."""

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim

import timm_convattn  # noqa: F401  registers the models

SMALLEST = [
    'aresnet18_relmha',
    'avgg11_relmha',
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('aaresnet50', 'aavgg16', 'convattn')),
]
OTHERS = ('aresnet18_relmha', 'aaresnet50', 'aavgg16', 'convattn')  # which take longer to compile
DYNAMIC = ({0: Dim('batch', min=1, max=64), 2: Dim('height', min=64, max=512), 3: Dim('width', min=64, max=512)},)
SIZES = [(3, 64, 64), (4, 96, 75), (2, 67, 130), (5, 80, 80)]


@pytest.fixture(scope='module')
def any_size():
    """Skips where torch itself captures no max pool for sizes of any parity, as up to 2.10."""
    pools = nn.Sequential(nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(2))
    try:
        torch.export.export(pools, (torch.randn(2, 3, 64, 96),), dynamic_shapes=DYNAMIC)
    except torch._dynamo.exc.UserError:
        pytest.skip(f'torch {torch.__version__} captures a max pool for one size alone')


def create(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, img_size=64).eval()


@pytest.mark.parametrize('name', SMALLEST)
def test_exported_program_takes_any_batch_height_and_width(any_size, name):
    model = create(name)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=DYNAMIC)
    with torch.inference_mode():
        for batch, height, width in SIZES:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALLEST)
def test_onnx_model_computes_the_same_at_any_batch_height_and_width(any_size, name, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model = create(name)
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 64, 96),),
        tmp_path / 'model.onnx',
        input_names=['images'],
        dynamic_shapes=DYNAMIC,
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx', providers=['CPUExecutionProvider'])
    with torch.inference_mode():
        for batch, height, width in SIZES:
            images = torch.randn(batch, 3, height, width)
            (logits,) = session.run(None, {'images': images.numpy()})
            torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', [SMALLEST[1], *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_compiled_model_is_one_graph_and_not_recompiled_for_each_size(any_size, name):
    model = create(name)
    counter = CompileCounter()  # counts graphs and runs them as they are
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with torch.inference_mode():
        for size in SIZES:
            images = torch.randn(size[0], 3, *size[1:])
            torch.testing.assert_close(compiled(images), model(images))
    assert counter.frame_count <= 2  # one for the first size, one for all others


@pytest.mark.parametrize('name', SMALLEST)
def test_bfloat16_stays_near_float32(name):
    model = create(name)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_features(images)
        found = model.to(torch.bfloat16).forward_features(images.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.05
