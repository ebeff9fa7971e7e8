"""Results files of version 0.1.0 are read, with the names that their keys have now."""

import json

import pytest

from timm_convattn.errors import InputError
from timm_convattn.results import BenchmarkResults, ModelCosts, RunResults, StudyResults, read_results, write_results

KINDS = {
    'selective_thermal_scenes_cpu': StudyResults,
    'table3_thermal_scenes_cpu': StudyResults,
    'input': BenchmarkResults,
    'models': ModelCosts,
}


@pytest.fixture
def old(root):
    return root / 'tests' / 'fixtures' / 'results_0.1.0'


@pytest.mark.parametrize('name', KINDS)
def test_old_file_is_read_and_written_with_new_keys(old, name, tmp_path):
    results = read_results(old / f'{name}.json', KINDS[name])
    write_results(tmp_path / 'new.json', results)
    assert read_results(tmp_path / 'new.json', KINDS[name]) == results
    banned = {'rows', 'row', 'is_clear', 'is_clear_alone', 'least_visible', 'least_area', 'wanted'}
    assert not banned & keys(json.loads((tmp_path / 'new.json').read_text()))
    assert numbers(json.loads((tmp_path / 'new.json').read_text())) == numbers(
        json.loads((old / f'{name}.json').read_text())
    )


def test_values_of_an_old_study_are_found_under_their_new_names(old):
    file = json.loads((old / 'selective_thermal_scenes_cpu.json').read_text())
    results = read_results(old / 'selective_thermal_scenes_cpu.json', StudyResults)
    ours, theirs = results.arms[1], file['rows'][1]
    assert (ours.name, ours.against, ours.model) == (theirs['row'], theirs['against'], theirs['model'])
    assert ours.difference.minimum_detectable == theirs['difference']['least_visible']
    assert ours.difference.significant is theirs['difference']['is_clear'] is False
    selection = theirs['runs'][0]['selection']
    assert ours.selections[0].minimum_area == selection['least_area']
    assert [target.error_rate for target in ours.selections[0].targets] == [0.01, 0.02, 0.05, 0.1]
    assert ours.selections[0].targets[0].refused == selection['wanted'][0]['refused']
    assert ours.selections[0].targets[3].validation.coverage == selection['wanted'][3]['validation']['coverage']
    paper = read_results(old / 'table3_thermal_scenes_cpu.json', StudyResults).arms[1].paper
    assert (paper.name, paper.mean) == ('AResNet50', 0.9707)


@pytest.mark.parametrize('content', ['', '[]', '{"study": 1}', '{"rows": [1]}', '{"rows": {"row": 2}}', '[' * 100_000])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / 'x.json').write_text(content)
    with pytest.raises(InputError, match=r'x\.json cannot be read as StudyResults'):
        read_results(tmp_path / 'x.json', StudyResults)


def keys(content):
    if isinstance(content, list):
        return set().union(*map(keys, content))
    return {*content, *set().union(*map(keys, content.values()))} if isinstance(content, dict) else set()


def numbers(content):
    """All numbers of a file, sorted."""
    if isinstance(content, dict | list):
        items = content.values() if isinstance(content, dict) else content
        return sorted(number for item in items for number in numbers(item))
    return [content] if isinstance(content, int | float) and not isinstance(content, bool) else []


def test_results_of_an_old_run_are_read_and_written_unchanged(root, tmp_path):
    old = root / 'tests' / 'fixtures' / 'run_0.1.0' / 'results.json'
    results = read_results(old, RunResults)
    assert (results.model.architecture, results.training.config['seed'], results.rejection) == ('convattn', 0, None)
    write_results(tmp_path / 'new.json', results)
    assert json.loads((tmp_path / 'new.json').read_text()) == json.loads(old.read_text())


def test_results_of_an_early_evaluation_are_read(root, tmp_path):
    content = json.loads((root / 'tests' / 'fixtures' / 'run_0.1.0' / 'results.json').read_text())
    del content['training'], content['data']['origin'], content['data']['repo_id'], content['metrics']['by_size']
    answers = {'temperature': 1.0, 'threshold': 0.5, 'coverage': 0.9, 'num_answered': 9}
    content['rejection'] = {'wanted_error_rate': 0.05, **answers, 'accuracy': None, 'error_rate': None}
    (tmp_path / 'x.json').write_text(json.dumps(content))
    results = read_results(tmp_path / 'x.json', RunResults)
    assert results.data.origin == results.data.source == 'embedded thermal scenes'
    assert (results.training, results.metrics.by_size) == (None, None)
    assert results.rejection.target_error_rate == 0.05
