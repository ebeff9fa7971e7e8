"""Every Python snippet of the documents runs."""

import json
import re

import pytest
from documents import ROOT, run_python, sections, snippets
from PIL import Image

from doc_blocks import render_results
from timm_convattn.data.flir import read_flir

PAGES = {path.name: path.read_text() for path in sorted((ROOT / 'docs').glob('*.md'))}
GUIDE = sections(PAGES['own_model.md'])
BIG, SMALL = 'aresnet50_relmha', 'aresnet18_relmha'


def run_part(*titles, model=BIG):
    """Run parts of the guide, each in its own namespace, and return the variables of the last one."""
    for title in titles:
        code = [snippet.replace(BIG, model) for snippet in snippets(GUIDE[title], 'python')]
        names = run_python(code, title)
    return names


def test_numbers_of_the_documents_are_those_of_the_results_files(root):
    shown = [page for page in PAGES.values() if re.search(r'<!-- \w+ hub_cards/results/', page)]
    assert shown
    for name, page in PAGES.items():
        assert render_results(page, root) == page, f'{name}: run train_scripts/render.py'


def test_stage_in_a_network_of_your_own(clone):
    names = run_part('The stage in your own network')
    assert names['logits'].shape == (8, 4)
    assert all(parameter.grad is not None for parameter in names['stage'].parameters())


def test_on_another_backbone(clone):
    names = run_part('On another backbone of timm')
    assert names['logits'].shape == (2, 4)
    assert names['earlier'].training  # it can be calibrated and trained
    assert len(names['maps']) == 5


@pytest.mark.parametrize('model', [SMALL, pytest.param(BIG, marks=pytest.mark.slow)])
def test_detector_makes_a_training_step(clone, model):
    names = run_part('In a detector', model=model)
    assert set(names['losses']) == {'loss_classifier', 'loss_box_reg', 'loss_objectness', 'loss_rpn_box_reg'}
    body = names['detector'].backbone.body
    gradients = [parameter.grad for parameter in body.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert body.feature_info.channels()[-1] == (512 + 64 if model == SMALL else 2048 + 256)


@pytest.mark.slow
def test_embeddings_find_others(clone):
    names = run_part('As an embedding')
    assert names['embeddings'].shape == (64, 2304)
    assert names['nearest'].shape == (64, 5)
    assert not (names['nearest'] == names['torch'].arange(64)[:, None]).any()


@pytest.mark.parametrize('model', [SMALL, pytest.param(BIG, marks=pytest.mark.slow)])
def test_in_transformers(clone, model):
    pytest.importorskip('transformers')
    names = run_part('In transformers', model=model)
    assert {entry['label'] for entry in names['found']} < {'person', 'vehicle', 'bicycle', 'dog'}


@pytest.mark.slow
def test_in_onnx_runtime_and_openvino(clone):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    names = run_part('In ONNX Runtime')
    images = names['torch'].rand(3, 3, 64, 64)
    with names['torch'].inference_mode():
        expected = names['model'](images)
    (logits,) = names['session'].run(None, {'images': images.numpy()})
    names['torch'].testing.assert_close(names['torch'].from_numpy(logits), expected, rtol=1e-3, atol=1e-4)
    pytest.importorskip('openvino', reason='openvino is not installed (extra openvino)')
    compiled = run_part('In OpenVINO')['compiled']
    logits = names['torch'].from_numpy(compiled({'images': images.numpy()})['logits'])
    names['torch'].testing.assert_close(logits, expected, rtol=1e-2, atol=1e-3)


def test_every_part_of_the_guide_is_run_here():
    tests = (ROOT / 'tests' / 'docs' / 'test_snippets.py').read_text()
    assert [title for title in GUIDE if f"run_part('{title}'" not in tests] == []


def test_first_steps(clone):
    assert run_python(snippets(PAGES['index.md'], 'python'), 'index.md')['logits'].shape == (8, 4)


def test_crops_in_python(clone, capsys):
    run_python(snippets(PAGES['data.md'], 'python'), 'data.md')
    assert "{'person': 60, 'vehicle': 60} (32, 24)" in capsys.readouterr().out


def test_annotations_of_another_camera_are_read(tmp_path):
    (annotations,) = snippets(PAGES['data.md'], 'json')
    for split in ('train', 'val'):
        (tmp_path / split / 'thermal_8_bit').mkdir(parents=True)
        (tmp_path / split / 'thermal_annotations.json').write_text(annotations)
        Image.new('L', (640, 512)).save(tmp_path / split / json.loads(annotations)['images'][0]['file_name'])
    (box,) = read_flir(tmp_path).splits['train'].frames[0].boxes
    assert (box.category, box.x, box.y, box.w, box.h) == ('person', 100, 200, 24, 60)


def test_rejection_in_python(clone):
    names = run_python(snippets(PAGES['rejection.md'], 'python'), 'rejection.md')
    assert 0 < names['threshold'] < 1
    assert names['answers'].coverage < 1
    assert names['answers'].accuracy > names['hits'].mean()


def test_every_page_with_python_is_run_here():
    tests = (ROOT / 'tests' / 'docs' / 'test_snippets.py').read_text()
    pages = [name for name, text in PAGES.items() if snippets(text, 'python')]
    assert [name for name in pages if f"PAGES['{name}']" not in tests] == []
