"""The committed evidence gives every committed number again, and damaged evidence is refused."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest

from doc_blocks import render_results
from timm_convattn.errors import InputError
from timm_convattn.results import StudyResults, read_results, write_results
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.evidence import CropTable, _read_table, _write_table, read_evidence
from timm_convattn.studies.findings import gather
from timm_convattn.studies.history import read_history
from timm_convattn.studies.matrix import read_matrix
from timm_convattn.studies.summary import summarize


@pytest.fixture(scope='module')
def committed(root):
    return root / 'hub_cards' / 'results'


@pytest.fixture(scope='module')
def computed(committed):
    """Results of every study, computed from the evidence: name of the file -> results."""
    evidence = read_evidence(committed)
    found = {}
    for entry in read_history(evidence.folder):
        matrix = read_matrix(evidence.folder / entry.matrix)
        findings = gather(matrix, entry.study, evidence.data[entry.source], evidence.runs)
        assert findings.problems == []
        found[f'{entry.study}_{findings.data.name}_{matrix.scale}.json'] = summarize(findings, matrix.scale)
    return found


@pytest.mark.slow
def test_every_results_file_of_a_study_is_computed_from_the_evidence(committed, computed):
    files = {path.name: read_results(path, StudyResults) for path in committed.glob('*_cpu.json')}
    assert files.keys() == computed.keys()
    for name, results in computed.items():
        assert_same(asdict(results), asdict(files[name]), name)


@pytest.mark.slow
def test_every_table_in_readme_and_docs_is_computed_from_the_evidence(root, committed, computed, tmp_path):
    results = tmp_path / 'hub_cards' / 'results'
    results.mkdir(parents=True)
    for path in committed.glob('*.json'):
        if path.name in computed:
            write_results(results / path.name, computed[path.name])
        else:
            shutil.copy(path, results)
    for path in (root / 'README.md', *sorted((root / 'docs').glob('*.md'))):
        assert render_results(path.read_text(), tmp_path) == path.read_text(), path
    assert (root / 'docs' / 'findings.md').read_text().count('<!-- study ') > 15


@pytest.mark.parametrize('study', ['table3', 'selective'])
def test_results_of_a_study_are_computed_from_the_evidence(committed, study):
    evidence = read_evidence(committed)
    (data,) = (data for data in evidence.data.values() if data.name == 'thermal_scenes')
    findings = gather(read_matrix(evidence.folder / 'cpu.yaml'), study, data, evidence.runs)
    kept = read_results(committed / f'{study}_thermal_scenes_cpu.json', StudyResults)
    assert_same(asdict(summarize(findings, 'cpu')), asdict(kept), study)


def test_the_matrix_that_was_kept_has_the_studies_of_the_shipped_one(root, committed):
    kept = read_matrix(committed / 'evidence' / 'cpu.yaml')
    shipped = read_matrix(root / 'train_scripts' / 'studies' / 'cpu.yaml')
    assert kept == shipped


def assert_same(found, wanted, where):
    """Compare plain values, numbers to 12 digits: a processor may add in another order."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key, value in wanted.items():
            assert_same(found[key], value, f'{where} {key}')
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, value in enumerate(wanted):
            assert_same(found[index], value, f'{where} {index}')
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-15), where
    else:
        assert found == wanted, where


@pytest.mark.parametrize('frames', [['b', 'a', 'b'], [None] * 3])
def test_a_table_of_crops_is_read_as_it_was_written(tmp_path, frames):
    data = StudyData('x', 'me', 'two_class', ('person', 'vehicle'), {'train': {}}, 'a' * 64, 'b' * 64)
    logits = np.array([[1e-45, -0.0], [3.4e38, 0.1], [1 / 3, -7]], np.float32)
    labels = np.array([0, 1, 1])
    path = tmp_path / 'x.parquet'
    _write_table(CropTable(data, 0.1, labels, frames, {'resnet50.a1_in1k-s0-x': logits, 'b': -logits}), path)
    table = _read_table(path, ['resnet50.a1_in1k-s0-x'])
    assert table.data == data
    assert (table.hold_out, table.labels.tolist(), table.frames) == (0.1, [0, 1, 1], frames)
    assert {name: values.tobytes() for name, values in table.logits.items()} == {
        'resnet50.a1_in1k-s0-x': logits.tobytes()
    }
    assert _read_table(path).logits.keys() == {'resnet50.a1_in1k-s0-x', 'b'}


@pytest.mark.parametrize('damage', ['runs.jsonl', 'thermal_uav.parquet'])
def test_damaged_evidence_is_refused_with_what_to_do(committed, tmp_path, damage):
    shutil.copytree(committed / 'evidence', tmp_path / 'evidence')
    (tmp_path / 'evidence' / damage).write_text('{')
    with pytest.raises(InputError, match=r'cannot be read as evidence of runs .* Restore its files'):
        read_evidence(tmp_path)


def test_a_run_whose_logits_are_not_those_of_its_results_is_left_out(committed, tmp_path):
    shutil.copytree(committed / 'evidence', tmp_path / 'evidence')
    evidence = read_evidence(tmp_path)
    path, matrix = tmp_path / 'evidence' / 'thermal_scenes.parquet', read_matrix(tmp_path / 'evidence' / 'cpu.yaml')
    table = _read_table(path)
    name = matrix.runs('table3', 'AResNet18, relative', table.data)[0].name
    table.logits[name] = -table.logits[name]
    _write_table(table, path)
    findings = gather(matrix, 'table3', evidence.data[table.data.sha256], evidence.runs)
    (problem,) = findings.problems
    assert f'{name}: its results have loss' in problem
    assert problem.endswith('to repeat it.')
