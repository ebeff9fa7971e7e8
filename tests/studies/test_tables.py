"""Tables and sentences state what was found and no more."""

from dataclasses import replace

import pytest

from timm_convattn.errors import InputError
from timm_convattn.results import (
    Answers,
    Arm,
    ArmRun,
    Difference,
    PaperResult,
    SelectiveResults,
    StudyDataset,
    StudyEnvironment,
    StudyResults,
    Summary,
    Target,
)
from timm_convattn.studies.tables import (
    LEGEND,
    Table,
    as_markdown,
    class_table,
    format_selection,
    format_study,
    format_verdict,
    selection_table,
    selection_verdict,
    study_table,
    summarize_arm,
    verdict,
)

FOUND = {'error_rate': 0.05, 'validation': Answers(0.9, 0.5, 5, 0.96, 0.04)}
REFUSED = {'error_rate': 0.05, 'refused': 'No threshold'}


def difference(**changes):
    found = Difference(3, 0.004, -0.001, 0.009, -0.002, 0.01, 0.004, 0.12, 0.24, 0.0081)
    return replace(found, **changes)


def run(*targets, **changes):
    selection = SelectiveResults(10, 0.9, 1.0, 0.02, 0.01, 0.03, 0.07, [Target(**target) for target in targets])
    return ArmRun('name', 0, 0.9, 0.8, 0.8, 0.1, [[1]], 1.0, 1, '', None, replace(selection, **changes))


def arm(name, difference=None, **changes):
    runs = [ArmRun('name', seed, 0.9, 0.8, 0.8, 0.1, [[1]], 1.0, 1, '', None) for seed in range(3)]
    f1 = {'a': 0.5, 'b': 0.25}
    found = Arm(name, 'resnet18', {}, 1, Summary(0.9, 0.012), Summary(0.8, None), f1, runs, difference=difference)
    return replace(found, **changes)


@pytest.fixture
def results():
    counts = {'train': {'a': 1000, 'b': 234}, 'validation': {'a': 5, 'b': 6}}
    data = StudyDataset('crops', 'somewhere', 'four_class', ['a', 'b'], counts, '', '')
    arms = [arm('plain'), arm('ours', difference(), against='plain')]
    return StudyResults('s', 'S', 'cpu', 'accuracy', data, arms, StudyEnvironment('', '', [], [], []))


def with_difference(results, **changes):
    return replace(results, arms=[results.arms[0], arm('ours', difference(**changes), against='plain')])


def test_difference_that_is_not_significant_states_what_was_detectable(results):
    assert verdict(results) == [
        'ours +0.40 against plain (-0.20 … +1.00): not significant; '
        'minimum detectable difference with 3 seeds: 0.81 points.'
    ]


def test_significant_difference_is_stated_and_highlighted(results):
    results = with_difference(results, significant=True)
    assert verdict(results) == ['ours +0.40 against plain (-0.20 … +1.00): significant.']
    assert study_table(results).highlighted == {1}
    assert '| **ours** | 3 |' in format_study(results)


def test_difference_that_adjustment_makes_insignificant_is_stated_as_such(results):
    results = with_difference(results, significant_unadjusted=True)
    (sentence,) = verdict(results)
    assert ': significant only before adjustment for all comparisons (p 0.240); minimum detectable' in sentence
    assert study_table(results).highlighted == set()


def test_interval_covers_those_over_seeds_and_over_frames(results):
    results = with_difference(results, seed_low=0.001, seed_high=0.007, low=-0.001, high=0.012)
    assert '(-0.10 … +1.20)' in verdict(results)[0]
    assert '-0.10 … +1.20' in study_table(results).rows[1]


def test_one_seed_is_not_tested(results):
    nothing = dict.fromkeys(('seed_low', 'seed_high', 'p_value', 'adjusted_p_value', 'minimum_detectable'))
    results = with_difference(results, seeds=1, **nothing)
    assert verdict(results) == ['ours +0.40 against plain: one seed, not tested.']
    assert format_verdict(results) == '- No comparison was tested.'
    assert list(study_table(results).header) == ['', 'n', 'accuracy', 'F1', 'against']  # no column is empty
    assert study_table(results).rows[1][-1] == 'plain +0.40'


def test_cells_are_percentages_and_differences_are_points(results):
    table = study_table(results)
    assert list(table.header) == ['', 'n', 'accuracy', 'F1', 'against', '95%', 'p', 'MDD']
    assert list(table.rows[1]) == [
        *('ours', '3', '90.00 ± 1.20', '80.00', 'plain +0.40', '-0.20 … +1.00', '0.240', '0.81'),
    ]
    assert study_table(replace(results, score='macro_f1')).header[2:4] == ['F1', 'accuracy']


def test_legend_explains_every_column(results):
    paper = PaperResult('AResNet50', 0.9707, 0.0006)
    table = study_table(replace(results, arms=[arm('ours', difference(), against='plain', paper=paper)]))
    assert all(f'*{name}*' in LEGEND for name in table.header if name)


def test_table_without_comparisons_has_no_columns_for_them(results):
    table = study_table(replace(results, arms=results.arms[:1]))
    assert list(table.header) == ['', 'n', 'accuracy', 'F1']
    assert len(table.notes) == 1


def test_number_of_comparisons_is_stated_where_there_are_several(results):
    assert 'Holm' not in study_table(results).notes[0]
    more = [arm('third', difference(), against='plain'), arm('one seed', difference(seeds=1), against='plain')]
    results = replace(results, arms=[*results.arms, *more])
    assert 'p is adjusted for the 2 comparisons of this table (Holm)' in study_table(results).notes[0]


def test_full_table_is_narrow_enough_to_be_read_on_github(results):
    paper = PaperResult('AAResNet50', 0.966, 0.0006)
    row = arm('AAResNet18', difference(), against='ResNet18', paper=paper)
    table = study_table(replace(results, arms=[row] * 7))
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    assert sum(widths) <= 100  # of characters; cells are short enough to wrap at spaces
    assert max(len(word) for name in table.header for word in name.split()) <= 8


def test_classes_without_samples_have_no_column(results):
    arms = [arm('plain', per_class_f1={'a': 0.5, 'b': None}), arm('ours', per_class_f1={'a': 0.6, 'b': None})]
    table = class_table(replace(results, arms=arms))
    assert (list(table.header), [list(cells) for cells in table.rows]) == (
        ['F1', 'a'],
        [['plain', '50.00%'], ['ours', '60.00%']],
    )
    assert table.notes == ['No crops to evaluate on: b.']


def test_what_is_missing_or_cannot_be_used_is_noted(results):
    results = replace(results, unfinished=2, missing_arms=['later'], problems=['x/results.json cannot be read'])
    notes = ' '.join(study_table(results).notes)
    assert '2 runs of this study are not finished.' in notes
    assert 'No finished run yet: later.' in notes
    assert 'Left out: x/results.json cannot be read' in notes
    assert 'Scale: cpu' in notes
    assert '1,234 crops to train on and 11 to evaluate on' in notes


def test_accuracies_of_the_paper_have_a_column_where_there_are_any(results):
    paper = PaperResult('AResNet50', 0.9707, 0.0006)
    table = study_table(replace(results, arms=[results.arms[0], replace(results.arms[1], paper=paper)]))
    assert table.header[-1] == 'paper, FLIR'
    assert [cells[-1] for cells in table.rows] == ['', 'AResNet50 97.07 ± 0.06']


def test_thresholds_that_no_seed_found_are_dashes(results):
    arms = [arm('plain', runs=[run(FOUND), run(REFUSED)]), arm('ours', runs=[run(REFUSED)])]
    results = replace(results, arms=arms)
    assert selection_verdict(results) == []
    assert selection_table(results).rows == [
        ['5%', 'plain', '1 of 2', '50.00%', '4.00%'],
        ['5%', 'ours', '0 of 1', '-', '-'],
    ]


def test_strictest_target_that_all_seeds_reach_is_stated(results):
    found = {'error_rate': 0.05, 'validation': Answers(0.9, 0.5, 5, 0.92, 0.08)}
    arms = [arm('plain', runs=[run({**REFUSED, 'error_rate': 0.01}, found)] * 2), arm('ours')]
    assert selection_verdict(replace(results, arms=arms)) == [
        'plain answers 50.00% with a target error rate of 5%, chosen on held-out frames; '
        '8.00% of these answers are wrong.'
    ]


def test_markdown_holds_statements_table_and_notes(results):
    text = format_study(results)
    assert text.startswith('- ours +0.40')
    assert '| ours | 3 | 90.00 ± 1.20 |' in text
    assert text.splitlines()[-3].startswith('Data: crops (somewhere)')
    assert as_markdown(Table(['a', 'b'], [['1', '2']])) == '| a | b |\n| --- | ---: |\n| 1 | 2 |'
    assert as_markdown(Table(['a'], [['<b> | x_1 *y*']])).endswith(r'| \<b\> \| x_1 \*y\* |')


def test_study_of_macro_f1_shows_each_class(results):
    assert '| ours | 50.00% | 25.00% |' not in format_study(results)
    assert '| ours | 50.00% | 25.00% |' in format_study(replace(results, score='macro_f1'))


def test_selection_states_what_is_answered_and_the_calibration(results):
    arms = [arm(name, runs=[run(FOUND), run(FOUND, area=0.04)]) for name in ('plain', 'ours')]
    text = format_selection(replace(results, arms=arms))
    assert text.startswith('- plain answers 50.00% with a target error rate of 5%')
    assert '| 5% | ours | 2 of 2 | 50.00% | 4.00% |' in text
    assert '| ours | 0.0300 | 0.0100 | 0.0300 | 0.0700 |' in text


def test_initial_weights_are_noted(results):
    results = replace(results, arms=[results.arms[0], replace(results.arms[1], start='plain')])
    assert 'Initial weights, seed by seed: ours from plain.' in study_table(results).notes


def test_verdict_is_three_lines(results):
    assert format_verdict(results).splitlines() == [
        '- One comparison of accuracy with 3 seeds, on 11 crops of crops, scale cpu.',
        '- None significant: differences of +0.40 points.',
        '- Minimum detectable difference: 0.81 points.',
    ]
    third = arm('third', difference(seeds=5, significant=True, minimum_detectable=0.01), against='plain')
    assert format_verdict(replace(results, arms=[*results.arms, third])).splitlines() == [
        '- 2 comparisons of accuracy with 3/5 seeds, on 11 crops of crops, scale cpu.',
        '- Significant: third +0.40 against plain (-0.20 … +1.00).',
        '- Minimum detectable difference: 0.81 to 1.00 points.',
    ]


@pytest.mark.parametrize(
    'changes, answer',
    [({}, 'not settled'), ({'significant': True}, 'yes'), ({'significant': True, 'mean': -0.004}, 'no, worse')],
)
def test_question_is_answered_by_the_comparison_of_an_arm(results, changes, answer):
    cells = summarize_arm(with_difference(results, **changes), 'ours')
    assert (cells[0], cells[1], cells[3]) == (answer, 'ours against plain (accuracy)', 'crops, 3')
    assert cells[2].endswith('0.40 (-0.20 … +1.00)')


def test_question_on_rejection_is_answered_by_the_error_rate_at_a_target(results):
    results = replace(results, arms=[arm('ours', runs=[run(FOUND)])])
    assert summarize_arm(results, 'ours', '5%') == ['yes', 'ours, target 5%', '4.00% wrong', 'crops, 1']
    for asked in (('ours', '1%'), ('ours',), ('other',)):
        with pytest.raises(InputError, match=r'^s on crops has no result for \w+( 1%)?\.$'):
            summarize_arm(results, *asked)
