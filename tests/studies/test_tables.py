"""Tables say what was found and no more."""

import pytest

from timm_convattn.studies.tables import (
    Table,
    as_markdown,
    class_table,
    format_selection,
    format_study,
    selection_table,
    selection_verdict,
    study_table,
    verdict,
)


def difference(**changes):
    found = {'seeds': 3, 'mean': 0.004, 'seed_low': -0.002, 'seed_high': 0.01, 'p_value': 0.12, 'low': -0.001}
    found |= {'high': 0.009, 'adjusted_p_value': 0.24, 'least_visible': 0.0081}
    return {**found, 'is_clear_alone': False, 'is_clear': False, **changes}


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
        'ours +0.40 against plain (-0.20 … +1.00): no clear difference; 3 seeds would have seen 0.81 points.'
    ]


def test_a_clear_difference_is_said_and_marked(record):
    record['rows'][1]['difference'] = difference(is_clear=True)
    assert verdict(record) == ['ours +0.40 against plain (-0.20 … +1.00): a clear difference.']
    assert study_table(record).highlighted == {1}


def test_a_difference_that_is_clear_alone_but_not_among_all_is_told_so_and_not_marked(record):
    record['rows'][1]['difference'] = difference(is_clear_alone=True)
    (said,) = verdict(record)
    assert ': clear alone, but not among all comparisons of this table (p 0.240); 3 seeds would have seen' in said
    assert study_table(record).highlighted == set()


def test_the_interval_holds_both_that_over_seeds_and_that_over_frames(record):
    record['rows'][1]['difference'] = difference(seed_low=0.001, seed_high=0.007, low=-0.001, high=0.012)
    assert '(-0.10 … +1.20)' in verdict(record)[0]
    assert '-0.10 … +1.20' in study_table(record).rows[1]


def test_one_seed_says_nothing(record):
    nothing = dict.fromkeys(('seed_low', 'seed_high', 'p_value', 'adjusted_p_value', 'least_visible'))
    record['rows'][1]['difference'] = difference(seeds=1, **nothing)
    assert verdict(record)[0].endswith('one seed, nothing can be said.')
    assert list(study_table(record).header) == ['', 'n', 'accuracy', 'F1', 'against']  # no column is empty
    assert study_table(record).rows[1][-1] == 'plain +0.40'


def test_cells_are_means_and_deviations_in_percent_and_differences_in_points(record):
    table = study_table(record)
    assert list(table.header) == ['', 'n', 'accuracy', 'F1', 'against', '95%', 'p', 'visible']
    assert list(table.rows[1]) == [
        *('ours', '3', '90.00 ± 1.20', '80.00', 'plain +0.40', '-0.20 … +1.00', '0.240', '0.81'),
    ]
    assert all(f'{name}: ' in table.notes[0] for name in ('n', 'against', '95%', 'p', 'visible'))
    record['score'] = 'macro_f1'
    assert study_table(record).header[2:4] == ['F1', 'accuracy']


def test_a_table_without_comparisons_says_nothing_of_them(record):
    record['rows'][1]['difference'] = None
    table = study_table(record)
    assert list(table.header) == ['', 'n', 'accuracy', 'F1']
    assert table.notes[0] == 'n: seeds; accuracy and F1 (macro): mean ± standard deviation over them, in %.'


def test_how_many_comparisons_were_adjusted_for_is_said_where_there_are_several(record):
    assert 'Holm' not in study_table(record).notes[0]
    record['rows'] += [row('third', difference(), against='plain'), row('one seed', difference(seeds=1))]
    assert 'adjusted for the 2 comparisons of this table (Holm)' in study_table(record).notes[0]


def test_a_full_table_is_narrow_enough_to_be_read_on_github(record):
    paper = {'row': 'AAResNet50', 'mean': 0.966, 'deviation': 0.0006}
    record['rows'] = [row('AAResNet18', difference(), against='ResNet18', paper=paper)] * 7
    table = study_table(record)
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    assert sum(widths) <= 100  # of characters; cells are short enough to wrap at spaces
    assert max(len(word) for name in table.header for word in name.split()) <= 8


def test_classes_without_samples_have_no_column_of_their_own(record):
    for index, told in enumerate(record['rows']):
        told['per_class_f1'] = {'a': 0.5 + index / 10, 'b': None}
    table = class_table(record)
    assert (list(table.header), [list(cells) for cells in table.rows]) == (
        ['F1', 'a'],
        [['plain', '50.00%'], ['ours', '60.00%']],
    )
    assert table.notes == ['No crops to evaluate on: b.']


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
    assert table.header[-1] == 'paper, FLIR'
    assert [cells[-1] for cells in table.rows] == ['', 'AResNet50 97.07 ± 0.06']
    assert "paper, FLIR: the paper's accuracy of the network named, on its own data" in table.notes[0]


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
    assert '| ours | 3 | 90.00 ± 1.20 |' in text
    assert text.splitlines()[-1].startswith('Data: crops (somewhere)')
    assert as_markdown(Table(['a', 'b'], [['1', '2']])) == '| a | b |\n| --- | ---: |\n| 1 | 2 |'


def test_a_study_of_macro_f1_shows_each_class(record):
    for told in record['rows']:
        told['per_class_f1'] = {'a': 0.5, 'b': 0.25}
    assert '| ours | 50.00% | 25.00% |' not in format_study(record)
    assert '| ours | 50.00% | 25.00% |' in format_study({**record, 'score': 'macro_f1'})


def test_selection_says_what_is_answered_and_how_well_sureness_is_known(record):
    keys = {'area': 0.02, 'least_area': 0.01, 'calibration_error': 0.03, 'calibration_error_without_temperature': 0.07}
    wanted = [{'error_rate': 0.05, 'validation': {'coverage': 0.5, 'error_rate': 0.04}}]
    for told in record['rows']:
        told['runs'] = [
            {'selection': {**keys, 'wanted': wanted}},
            {'selection': {**keys, 'area': 0.04, 'wanted': wanted}},
        ]
    text = format_selection(record)
    assert text.startswith('- plain answers 50.00% for at most 5% wrong')
    assert '| 5% | ours | 2 of 2 | 50.00% | 4.00% |' in text
    assert '| ours | 0.0300 | 0.0100 | 0.0300 | 0.0700 |' in text


def test_trained_starts_are_noted(record):
    record['rows'][1]['start'] = 'plain'
    assert 'Trained weights that rows start from, seed by seed: ours from plain.' in study_table(record).notes
