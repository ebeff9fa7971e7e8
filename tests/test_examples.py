"""The notebook has no outputs, and runs in a kernel of this Python and from any folder."""

import ast
import json
import re
import sys

import nbformat
import numpy as np
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

NAME = 'thermal_crops'


class ThisPython(AsyncKernelManager):
    """Starts kernels of the interpreter that runs the tests, whatever kernels are installed."""

    kernel_spec = KernelSpec(argv=[sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}'])


def read_notebook(root):
    return nbformat.read(root / 'examples' / f'{NAME}.ipynb', as_version=nbformat.NO_CONVERT)


def execute(root, folder, **parameters):
    """Run the notebook in a folder, with other parameters, and return its cells with their outputs, by id."""
    notebook = read_notebook(root)
    index = next(i for i, cell in enumerate(notebook.cells) if 'parameters' in cell.metadata.get('tags', []))
    defined = {node.targets[0].id for node in ast.parse(notebook.cells[index].source).body}
    assert set(parameters) <= defined
    changes = [f'{name} = {value!r}' for name, value in parameters.items()]
    source = '\n'.join([*changes, 'import sys', 'print(sys.executable)'])
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source, id='changes'))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv('IPYTHONDIR', str(folder / 'ipython'))
        patched.setenv('JUPYTER_RUNTIME_DIR', str(folder / 'jupyter'))
        resources = {'metadata': {'path': str(folder)}}
        NotebookClient(notebook, kernel_manager_class=ThisPython, timeout=900, resources=resources).execute()
    return {cell.id: cell for cell in notebook.cells}


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.get('name') == 'stdout')


def num_figures(cell):
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)


@pytest.fixture(scope='module')
def executed(root, tmp_path_factory):
    """The notebook on few drawn scenes: its cells, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp('notebook')
    cells = execute(root, folder, SCENES=(60, 20), EPOCHS=5, ERROR_RATE=0.6, THREADS=1)
    (work,) = (folder / 'runs').iterdir()
    return cells, work


def test_notebook_is_valid_and_holds_no_outputs(root):
    notebook = read_notebook(root)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert len(code) >= 10
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []


def test_cells_have_unique_readable_ids(root):
    names = [cell.id for cell in read_notebook(root).cells]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r'[a-z]+(-[a-z]+)*', name)] == []


def test_every_project_file_named_in_the_text_exists(root):
    text = '\n'.join(cell.source for cell in read_notebook(root).cells if cell.cell_type == 'markdown')
    linked, scripts = re.findall(r'\]\(([^)#:]+)\)', text), re.findall(r'train_scripts/\w+\.py', text)
    assert linked and scripts
    assert [path for path in linked if not (root / 'examples' / path).is_file()] == []
    assert [path for path in scripts if not (root / path).is_file()] == []


@pytest.mark.slow
def test_kernel_is_the_python_of_the_tests(executed):
    cells, _ = executed
    assert printed(cells['changes']).strip() == sys.executable


@pytest.mark.slow
def test_notebook_trains_a_network_that_has_learned(executed):
    cells, work = executed
    (results,) = work.glob('run-*/results.json')
    metrics = json.loads(results.read_text())['metrics']
    assert metrics['macro_f1'] > 0.4  # a constant answer has 0.15
    assert f'accuracy {metrics["accuracy"]:.4f}, macro F1 {metrics["macro_f1"]:.4f}' in printed(cells['training'])
    confused = np.array(metrics['confusion_matrix'])
    assert f'{confused.sum() - confused.trace():,} of {confused.sum():,} are wrong' in printed(cells['mistakes'])


@pytest.mark.slow
def test_notebook_draws_frames_crops_mistakes_and_two_explanations(executed):
    cells, _ = executed
    drawn = {name: num_figures(cell) for name, cell in cells.items() if 'outputs' in cell and num_figures(cell)}
    once = ('a-frame', 'crops', 'results', 'mistakes', 'use')
    assert drawn | {'rejecting': 1} == dict.fromkeys(once, 1) | {'explaining': 2, 'rejecting': 1}
    described = printed(cells['explaining'])
    assert described.count('convolution ') == 4 and described.count('attention layer4.0.attn') == 2
    assert described.count('Grad-CAM: ') == 2


@pytest.mark.slow
def test_notebook_writes_a_model_that_rejects(executed):
    from timm_convattn.inference import load_classifier

    cells, work = executed
    (model,) = work.glob('run-*/model')
    careful = load_classifier(str(model), reject_at=0.6)
    assert careful.threshold > 0
    assert f'answered with a confidence of {careful.threshold:.4f} and more' in printed(cells['rejecting'])


@pytest.mark.slow
def test_exported_file_has_the_logits_of_the_trained_model(executed):
    import onnxruntime

    from timm_convattn.data.crops import load_crops
    from timm_convattn.inference import load_classifier
    from timm_convattn.predictions import Predictions

    _, work = executed
    (run,) = work.glob('run-*')
    crops, classifier = load_crops(work / 'crops')['validation'], load_classifier(str(run / 'model'))
    session = onnxruntime.InferenceSession(work / 'model.onnx', providers=['CPUExecutionProvider'])
    batch = classifier.to_batch([crop['image'] for crop in crops.select(range(40))])
    (logits,) = session.run(['logits'], {'images': batch.numpy()})
    expected = Predictions.load(run / 'validation.safetensors').logits[:40]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_notebook_runs_on_a_custom_folder_without_one_of_the_classes(root, tiny_frames, tmp_path):
    cells = execute(root, tmp_path, FRAMES=str(tiny_frames), EPOCHS=3, ERROR_RATE=0.99, THREADS=1)
    assert 'train: 28 frames' in printed(cells['frames'])
    assert 'none of dog' in printed(cells['training'])
    (work,) = (tmp_path / 'runs').iterdir()
    assert (work / 'model.onnx').is_file() and not (work / 'frames').exists()
