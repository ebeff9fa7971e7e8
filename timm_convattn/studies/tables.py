"""Results of studies as tables and sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from timm_convattn.errors import InputError
from timm_convattn.results import Arm, Difference, PaperResult, Score, StudyResults, Summary, Target
from timm_convattn.tables import as_list, escape, markdown_table

__all__ = [
    'LEGEND',
    'Table',
    'as_markdown',
    'calibration_table',
    'class_table',
    'format_selection',
    'format_study',
    'format_verdict',
    'selection_table',
    'selection_verdict',
    'study_table',
    'summarize_arm',
    'verdict',
]

LEGEND = (
    'In the tables: *n* is the number of seeds; *accuracy* and *F1* (macro) are mean ± standard deviation over seeds, '
    'in %; *against* is the difference from the arm named, in percentage points; *95%* is its confidence interval for '
    'other seeds and other frames, for this comparison alone; *p* is from a paired t test over seeds, adjusted for the '
    'number of comparisons in the table (Holm); *MDD* is the minimum detectable difference: the smallest, in points, '
    'that as many seeds detect in four of five studies; *paper, FLIR* is the accuracy that the paper reports for the '
    'network named, on its own data. Bold: the difference is significant.'
)
NAMES: dict[Score, str] = {'accuracy': 'accuracy', 'macro_f1': 'macro F1'}


@dataclass(frozen=True)
class Table:
    """A table of plain text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)
    highlighted: frozenset[int] = frozenset()
    """Indices of rows whose first cell is bold."""


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, with the first column aligned left and the others right."""
    rows = [[escape(cell) for cell in row] for row in table.rows]
    for index in table.highlighted:
        rows[index][0] = f'**{rows[index][0]}**'
    header = [escape(name) for name in table.header]
    return '\n\n'.join([markdown_table(header, rows, right=range(1, len(header))), *map(escape, table.notes)])


def format_study(results: StudyResults) -> str:
    """Return a study as Markdown: its comparisons, and its scores folded away (by class if compared by macro F1)."""
    tables = [study_table(results), *([class_table(results)] if results.score == 'macro_f1' else [])]
    return _as_text(verdict(results), 'Scores', tables)


def format_selection(results: StudyResults) -> str:
    """Return the selective classification of a study's runs with held-out frames as Markdown."""
    tables = [selection_table(results), calibration_table(results)]
    return _as_text(selection_verdict(results), 'Coverage, error rates and calibration', tables)


def _as_text(statements: Sequence[str], title: str, tables: Sequence[Table]) -> str:
    """Return statements and tables, the latter folded away on GitHub and on the documentation site."""
    parts = [as_list(statements)] if statements else []
    folded = [f'<details markdown="1">\n<summary>{title}</summary>', *map(as_markdown, tables), '</details>']
    return '\n\n'.join([*parts, *folded])


def format_verdict(results: StudyResults) -> str:
    """Return a study in three lines: what was compared, what is significant, what could have been detected."""
    compared = [arm for arm in results.arms if arm.difference and arm.difference.seeds > 1]
    found = [arm.difference for arm in compared if arm.difference]
    if not found:
        return as_list(['No comparison was tested.'])
    seeds = '/'.join(map(str, sorted({difference.seeds for difference in found})))
    crops = f'{sum(results.data.counts["validation"].values()):,} crops of {results.data.name}'
    number = 'One comparison' if len(found) == 1 else f'{len(found)} comparisons'
    significant = '; '.join(_comparison(arm) for arm in compared if arm.difference and arm.difference.significant)
    means = _range([difference.mean for difference in found], '{:+.2f}')
    detectable = _range([difference.minimum_detectable or 0.0 for difference in found], '{:.2f}')
    return as_list(
        [
            f'{number} of {NAMES[results.score]} with {seeds} seeds, on {crops}, scale {results.scale}.',
            f'Significant: {significant}.' if significant else f'None significant: differences of {means} points.',
            f'Minimum detectable difference: {detectable} points.',
        ]
    )


def summarize_arm(results: StudyResults, name: str, error_rate: str | None = None) -> list[str]:
    """Return answer, comparison, difference and data of an arm, as cells of a table.

    Args:
        results: The study.
        name: The arm.
        error_rate: A target error rate, such as '1%': whether the answers reach it is the question, not the comparison.

    Raises:
        InputError: If the study has no such arm, comparison or target.
    """
    arm = next((arm for arm in results.arms if arm.name == name), None)
    if arm and error_rate:
        targets = next((each for each in _targets(arm) if f'{each[0].error_rate:.0%}' == error_rate), ())
        _, found = _answers(targets)
        if found is not None:
            answer = 'no' if found > targets[0].error_rate else 'yes'
            data = f'{results.data.name}, {len(targets)}'
            return [answer, f'{name}, target {error_rate}', f'{_share(found)} wrong', data]
    elif arm and arm.difference:
        difference = arm.difference
        answer = ('yes' if difference.mean > 0 else 'no, worse') if difference.significant else 'not settled'
        compared = f'{name} against {arm.against} ({NAMES[results.score]})'
        points = f'{_points(difference.mean)} ({_interval(difference)})'
        return [answer, compared, points, f'{results.data.name}, {difference.seeds}']
    raise InputError(
        f'{results.study} on {results.data.name} has no result for {name} {error_rate or ""}'.strip() + '.'
    )


def _range(values: Sequence[float], pattern: str) -> str:
    low, high = (pattern.format(100 * value) for value in (min(values), max(values)))
    return low if low == high else f'{low} to {high}'


def study_table(results: StudyResults) -> Table:
    """Return a study's arms: scores over seeds, difference from the arm compared with, and the paper's accuracy."""
    score: Score = results.score
    other: Score = 'macro_f1' if score == 'accuracy' else 'accuracy'
    short = {'accuracy': 'accuracy', 'macro_f1': 'F1'}
    arms = results.arms
    columns = {
        '': [arm.name for arm in arms],
        'n': [str(len(arm.runs)) for arm in arms],
        short[score]: [_percent(arm.score(score)) for arm in arms],
        short[other]: [_percent(arm.score(other)) for arm in arms],
        'against': [f'{arm.against} {_points(arm.difference.mean)}' if arm.difference else '' for arm in arms],
        '95%': [_interval(arm.difference) if arm.difference else '' for arm in arms],
        'p': [_cell(arm, 'adjusted_p_value', '{:.3f}') for arm in arms],
        'MDD': [_cell(arm, 'minimum_detectable', '{:.2%}').rstrip('%') for arm in arms],
        'paper, FLIR': [f'{arm.paper.name} {_percent(arm.paper)}' if arm.paper else '' for arm in arms],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    significant = {index for index, arm in enumerate(arms) if arm.difference and arm.difference.significant}
    rows = list(zip(*filled.values(), strict=True))
    return Table(list(filled), rows, list(_notes(results)), frozenset(significant))


def class_table(results: StudyResults) -> Table:
    """Return the F1 of each class that has samples, by arm, as a mean over seeds."""
    names = [
        name for name in results.data.class_names if any(arm.per_class_f1[name] is not None for arm in results.arms)
    ]
    absent = [name for name in results.data.class_names if name not in names]
    cells = [[arm.name, *(_share(arm.per_class_f1[name]) for name in names)] for arm in results.arms]
    return Table(['F1', *names], cells, [f'No crops to evaluate on: {", ".join(absent)}.'] if absent else [])


def selection_table(results: StudyResults) -> Table:
    """Return what each arm answers at each target error rate: means over the seeds that find a threshold."""
    header = ['target error rate', 'arm', 'seeds with a threshold', 'answered', 'error rate of the answers']
    rows = []
    for arm in results.arms:
        for targets in _targets(arm):
            found = [target for target in targets if target.validation]
            cells = [f'{targets[0].error_rate:.0%}', arm.name, f'{len(found)} of {len(targets)}']
            rows.append([*cells, *map(_share, _answers(found))])
    return Table(header, rows, ['Thresholds are chosen on held-out training frames, at a confidence level of 95%.'])


def calibration_table(results: StudyResults) -> Table:
    """Return how well each arm's confidence ranks and predicts its errors: means over seeds, validation split."""
    columns = {
        'area under risk-coverage': 'area',
        'minimum': 'minimum_area',
        'calibration error': 'calibration_error',
        'without temperature': 'calibration_error_without_temperature',
    }
    rows = [
        [arm.name, *(f'{_mean([getattr(each, key) for each in arm.selections]):.4f}' for key in columns.values())]
        for arm in results.arms
        if arm.selections
    ]
    return Table(['arm', *columns], rows)


def verdict(results: StudyResults) -> list[str]:
    """Return a sentence for each comparison: the difference, whether it is significant, what was detectable."""
    return [_verdict_of(arm, arm.difference) for arm in results.arms if arm.difference]


def _verdict_of(arm: Arm, difference: Difference) -> str:
    if difference.minimum_detectable is None:
        return f'{_comparison(arm)}: one seed, not tested.'
    if difference.significant:
        return f'{_comparison(arm)}: significant.'
    points, verdict = f'{100 * difference.minimum_detectable:.2f} points', 'not significant'
    if difference.significant_unadjusted:
        verdict = f'significant only before adjustment for all comparisons (p {difference.adjusted_p_value:.3f})'
    return f'{_comparison(arm)}: {verdict}; minimum detectable difference with {difference.seeds} seeds: {points}.'


def _comparison(arm: Arm) -> str:
    if arm.difference is None:
        return arm.name
    interval = _interval(arm.difference)
    return f'{arm.name} {_points(arm.difference.mean)} against {arm.against}' + (f' ({interval})' if interval else '')


def selection_verdict(results: StudyResults) -> list[str]:
    """Return a sentence for each arm, for the strictest target error rate for which all its seeds find a threshold."""
    sentences = []
    for arm in results.arms:
        targets = next((targets for targets in _targets(arm) if all(target.validation for target in targets)), None)
        if targets:
            coverage, errors = map(_share, _answers(targets))
            sentences.append(
                f'{arm.name} answers {coverage} with a target error rate of {targets[0].error_rate:.0%}, chosen on '
                f'held-out frames; {errors} of these answers are wrong.'
            )
    return sentences


def _targets(arm: Arm) -> Iterator[tuple[Target, ...]]:
    """Yield each target error rate with the result of every run."""
    return zip(*(selection.targets for selection in arm.selections), strict=True)


def _answers(targets: Sequence[Target]) -> tuple[float | None, float | None]:
    """Return mean coverage and mean error rate on the validation split."""
    answers = [target.validation for target in targets if target.validation]
    errors = [each.error_rate for each in answers if each.error_rate is not None]
    coverage = [each.coverage for each in answers]
    return (_mean(coverage) if coverage else None, _mean(errors) if errors else None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(arm: Arm, key: str, pattern: str) -> str:
    value = getattr(arm.difference, key, None)
    return '' if value is None else pattern.format(value)


def _share(value: float | None) -> str:
    return '-' if value is None else f'{value:.2%}'


def _percent(summary: Summary | PaperResult) -> str:
    deviation = summary.deviation
    return f'{100 * summary.mean:.2f}' + ('' if deviation is None else f' ± {100 * deviation:.2f}')


def _points(share: float) -> str:
    return f'{100 * share:+.2f}'


def _interval(difference: Difference) -> str:
    """Return the interval that covers both that over seeds and that over seeds and frames; empty for one seed."""
    if difference.seed_low is None or difference.seed_high is None:
        return ''
    low, high = min(difference.seed_low, difference.low), max(difference.seed_high, difference.high)
    return f'{_points(low)} … {_points(high)}'


def _notes(results: StudyResults) -> Iterator[str]:
    data = results.data
    counted = {split: sum(counts.values()) for split, counts in data.counts.items()}
    tested = sum(arm.difference is not None and arm.difference.seeds > 1 for arm in results.arms)
    yield (
        f'Data: {data.name} ({data.origin}), {data.classes}, {counted["train"]:,} crops to train on and '
        f'{counted["validation"]:,} to evaluate on. Scale: {results.scale}.'
        + (f' p is adjusted for the {tested} comparisons of this table (Holm).' if tested > 1 else '')
    )
    if results.unfinished:
        runs = 'One run of this study is' if results.unfinished == 1 else f'{results.unfinished} runs of this study are'
        yield f'{runs} not finished.'
    started = [f'{arm.name} from {arm.start}' for arm in results.arms if arm.start]
    if started:
        yield f'Initial weights, seed by seed: {", ".join(started)}.'
    if results.missing_arms:
        yield f'No finished run yet: {", ".join(results.missing_arms)}.'
    for problem in results.problems:
        yield f'Left out: {problem}'
