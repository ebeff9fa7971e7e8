"""Tables say what was found and no more."""

import pytest

from timm_convattn.studies.tables import (
    Table,
    format_study,
    markdown_table,
    selection_table,
    selection_verdict,
    study_table,
    verdict,
)


def difference(**changes):
    found = {'seeds': 3, 'mean': 0.004, 'seed_low': -0.002, 'seed_high': 0.01, 'p_value': 0.12, 'low': -0.001}
    return {**found, 'high': 0.009, 'least_visible': 0.0081, 'is_clear': False, **changes}


def row(name, difference=None, **changes):
    found = {'row': name, 'paper': None, 'against': None, 'difference': difference, 'runs': [{}] * 3}
    scores = {'accuracy': {'mean': 0.9, 'deviation': 0.012}, 'macro_f1': {'mean': 0.8, 'deviation': None}}
    return {**found, **scores, **changes}


@pytest.fixture
def record():
    data = {'name': 'crops', 'origin': 'somewhere', 'classes': 'four_class', 'class_names': ['a', 'b']}
    data['counts'] = {'train': {'a': 1000, 'b': 234}, 'validation': {'a': 5, 'b': 6}}
    rows = [row('plain'), row('ours', difference(), against='plain')]
    found = {'study': 's', 'scale': 'cpu', 'score': 'accuracy', 'data': data, 'rows': rows}
    return {**found, 'unfinished': 0, 'rows_without_runs': [], 'problems': []}


def test_a_difference_that_is_not_clear_is_told_with_what_could_have_been_seen(record):
    assert verdict(record) == [
        'ours +0.40 against plain (-0.10 to +0.90): no clear difference; 3 seeds would have seen 0.81 points.'
    ]


def test_a_clear_difference_is_said_and_marked(record):
    record['rows'][1]['difference'] = difference(is_clear=True)
    assert verdict(record) == ['ours +0.40 against plain (-0.10 to +0.90): a clear difference.']
    assert study_table(record).highlighted == {1}


def test_one_seed_says_nothing(record):
    nothing = dict.fromkeys(('seed_low', 'seed_high', 'p_value', 'least_visible'))
    record['rows'][1]['difference'] = difference(seeds=1, **nothing)
    assert verdict(record)[0].endswith('one seed, nothing can be said.')
    assert study_table(record).rows[1][-4:] == ['', '-0.10 … +0.90', '', '']


def test_cells_are_means_and_deviations_in_percent_and_differences_in_points(record):
    table = study_table(record)
    assert table.header[:4] == ['', 'seeds', 'accuracy', 'macro F1']
    assert list(table.rows[1]) == [
        *('ours', '3', '90.00% ± 1.20', '80.00%', '+0.40 to plain', '-0.20 … +1.00', '-0.10 … +0.90', '0.120', '0.81'),
    ]


def test_what_is_missing_or_cannot_be_used_is_noted(record):
    record |= {'unfinished': 2, 'rows_without_runs': ['later'], 'problems': ['x/results.json cannot be read']}
    notes = ' '.join(study_table(record).notes)
    assert '2 runs of this study are not finished.' in notes
    assert 'No finished run yet: later.' in notes
    assert 'Left out: x/results.json cannot be read' in notes
    assert 'Scale: cpu' in notes
    assert '1,234 crops to train on and 11 to evaluate on' in notes


def test_the_papers_figures_stand_beside_ours_where_there_are_any(record):
    record['rows'][1]['paper'] = {'row': 'AResNet50', 'mean': 0.9707, 'deviation': 0.0006}
    table = study_table(record)
    assert table.header[3] == "the paper's"
    assert [cells[3] for cells in table.rows] == ['', '97.07% ± 0.06']


def test_thresholds_that_no_seed_found_are_dashes(record):
    found = {'error_rate': 0.05, 'validation': {'coverage': 0.5, 'error_rate': 0.04}}
    refused = {'error_rate': 0.05, 'refused': 'No threshold'}
    record['rows'][0]['runs'] = [{'selection': {'wanted': [found]}}, {'selection': {'wanted': [refused]}}]
    record['rows'][1]['runs'] = [{'selection': {'wanted': [refused]}}]
    assert selection_verdict(record) == []
    assert selection_table(record).rows == [
        ['5%', 'plain', '1 of 2', '50.00%', '4.00%'],
        ['5%', 'ours', '0 of 1', '-', '-'],
    ]


def test_the_strictest_rate_that_all_seeds_promise_is_told(record):
    refused = {'error_rate': 0.01, 'refused': 'No threshold'}
    found = {'error_rate': 0.05, 'validation': {'coverage': 0.5, 'error_rate': 0.08}}
    record['rows'][0]['runs'] = [{'selection': {'wanted': [refused, found]}}] * 2
    record['rows'][1]['runs'] = [{'selection': None}]
    assert selection_verdict(record) == [
        'plain answers 50.00% for at most 5% wrong by its held-out frames, and is wrong in 8.00% of these answers.'
    ]


def test_markdown_holds_statements_table_and_notes(record):
    text = format_study(record)
    assert text.startswith('- ours +0.40')
    assert '| ours | 3 | 90.00% ± 1.20 |' in text
    assert text.splitlines()[-1].startswith('Data: crops (somewhere)')
    assert markdown_table(Table(['a', 'b'], [['1', '2']])) == '| a | b |\n| --- | ---: |\n| 1 | 2 |'
