"""A run of version 0.1.0 on the embedded scenes: its model loads, its results are read, its training resumes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from datasets import Dataset

from doc_blocks import render_results
from timm_convattn.inference import load_classifier
from timm_convattn.predictions import Predictions
from timm_convattn.training.evaluation import evaluation_loader, predict
from timm_convattn.training.finetune import finetune
from timm_convattn.training.run_folder import parse_run

FIXTURES = Path(__file__).parent.parent / 'fixtures'
OLD_RUN = FIXTURES / 'run_0.1.0'


@pytest.fixture
def old_run(tmp_path):
    return Path(shutil.copytree(OLD_RUN, tmp_path / 'run'))


def test_saved_model_computes_the_logits_that_its_run_recorded(old_run):
    classifier = load_classifier(f'local-dir:{old_run / "model"}', reject_at=0.5)
    # the first 64 validation crops, stored: NumPy's float functions differ in the last bit between CPUs and versions,
    # which moves a grey level of a drawn scene now and then
    crops = Dataset.from_parquet(str(FIXTURES / 'crops_0.1.0.parquet'), keep_in_memory=True)
    loader = evaluation_loader(crops, classifier.data_config)
    predictions = predict(classifier.model, loader, Accelerator(cpu=True), classifier.class_names)
    recorded = Predictions.load(old_run / 'validation.safetensors')
    np.testing.assert_allclose(predictions.logits, recorded.logits[: len(crops)], atol=1e-4)
    assert 0 < classifier.threshold < 1


def test_results_file_is_rendered(old_run):
    block = '<!-- metrics results.json -->\n<!-- end metrics -->'
    accuracy = json.loads((old_run / 'results.json').read_text())['metrics']['accuracy']
    assert f'accuracy {accuracy:.4f}' in render_results(block, old_run)


@pytest.mark.slow  # an epoch of 3,300 crops
def test_training_resumes_from_its_checkpoint(old_run):
    args = ['--resume', str(old_run), '--epochs', '3', '--threads', '1']
    finetune(parse_run(args))
    log = [json.loads(line) for line in (old_run / 'log.jsonl').read_text().splitlines()]
    assert [entry['epoch'] for entry in log] == [1, 2, 3]
    assert log[2]['train_loss'] < log[1]['train_loss'] < log[0]['train_loss']
