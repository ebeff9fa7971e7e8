"""Results files of studies as tables."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from timm_convattn.tables import markdown_table

__all__ = [
    'Table',
    'as_list',
    'as_markdown',
    'class_table',
    'format_selection',
    'format_study',
    'selection_table',
    'selection_verdict',
    'study_table',
    'sureness_table',
    'verdict',
]

NAMES = {'accuracy': 'accuracy', 'macro_f1': 'macro F1'}  # of what rows are compared by, for people
SHORT = {'accuracy': 'accuracy', 'macro_f1': 'F1'}  # for the heads of columns


@dataclass(frozen=True)
class Table:
    """A table for people."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)
    highlighted: frozenset[int] = frozenset()
    """Rows that a reader should see first."""


def as_markdown(table: Table) -> str:
    """Show a table in Markdown, the first column to the left and the others to the right."""
    return '\n\n'.join([markdown_table(table.header, table.rows, right=range(1, len(table.header))), *table.notes])


def format_study(record: dict[str, Any]) -> str:
    """Show a study in Markdown: what was found, the table, and each class where the classes are what is compared."""
    tables = [study_table(record), *([class_table(record)] if record['score'] == 'macro_f1' else [])]
    return _as_text(verdict(record), tables)


def format_selection(record: dict[str, Any]) -> str:
    """Show in Markdown what the runs of a study that held frames out can leave unanswered."""
    tables = selection_table(record), sureness_table(record)
    return _as_text(selection_verdict(record), tables)


def _as_text(statements: Sequence[str], tables: Sequence[Table]) -> str:
    return '\n\n'.join([*([as_list(statements)] if statements else []), *map(as_markdown, tables)])


def as_list(statements: Sequence[str]) -> str:
    """Show statements as a list in Markdown."""
    return '\n'.join(f'- {statement}' for statement in statements)


def study_table(record: dict[str, Any]) -> Table:
    """Show a study: each row's scores over seeds, how it differs from the row it extends, and the paper's figure."""
    score = record['score']
    other = 'macro_f1' if score == 'accuracy' else 'accuracy'
    columns = {
        '': [row['row'] for row in record['rows']],
        'n': [str(len(row['runs'])) for row in record['rows']],
        SHORT[score]: [_percent(row[score]) for row in record['rows']],
        SHORT[other]: [_percent(row[other]) for row in record['rows']],
        'against': [_against(row) for row in record['rows']],
        '95%': [_interval(row['difference']) for row in record['rows']],
        'p': [_of_difference(row, 'adjusted_p_value', '{:.3f}') for row in record['rows']],
        'visible': [_of_difference(row, 'least_visible', '{:.2%}').rstrip('%') for row in record['rows']],
        'paper, FLIR': [_paper(row['paper']) for row in record['rows']],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    clear = {index for index, row in enumerate(record['rows']) if (row['difference'] or {}).get('is_clear')}
    notes = [_legend(record, filled), *_notes(record)]
    return Table(list(filled), list(zip(*filled.values(), strict=True)), notes, frozenset(clear))


def class_table(record: dict[str, Any]) -> Table:
    """Show the F1 of each class that has samples, row by row, as a mean over the seeds."""
    rows = record['rows']
    names = [
        name for name in record['data']['class_names'] if any(row['per_class_f1'][name] is not None for row in rows)
    ]
    absent = [name for name in record['data']['class_names'] if name not in names]
    cells = [[row['row'], *(_share(row['per_class_f1'][name]) for name in names)] for row in rows]
    return Table(['F1', *names], cells, [f'No crops to evaluate on: {", ".join(absent)}.'] if absent else [])


def selection_table(record: dict[str, Any]) -> Table:
    """Show what each row leaves unanswered at each wanted error rate: the mean over seeds that find a threshold."""
    header = ['wanted error rate', 'row', 'seeds with a threshold', 'answered', 'error rate of the answers']
    rows = []
    for row in record['rows']:
        for wanted in zip(*(selection['wanted'] for selection in _selections(row)), strict=True):
            found = [entry['validation'] for entry in wanted if 'validation' in entry]
            cells = [f'{wanted[0]["error_rate"]:.0%}', row['row'], f'{len(found)} of {len(wanted)}']
            coverage = [entry['coverage'] for entry in found]
            errors = [entry['error_rate'] for entry in found if entry['error_rate'] is not None]
            rows.append([*cells, _share(_mean(coverage)), _share(_mean(errors))])
    return Table(header, rows, ['Thresholds are chosen on held-out training frames, for a certainty of 95% there.'])


def sureness_table(record: dict[str, Any]) -> Table:
    """Show how well each row knows when it is wrong: means over the seeds, on the validation split."""
    columns = {
        'area under risk-coverage': 'area',
        'least possible': 'least_area',
        'calibration error': 'calibration_error',
        'without temperature': 'calibration_error_without_temperature',
    }
    rows = []
    for row in record['rows']:
        if selections := _selections(row):
            values = [_mean([selection[key] for selection in selections]) for key in columns.values()]
            rows.append([row['row'], *(f'{value:.4f}' for value in values)])
    return Table(['row', *columns], rows)


def verdict(record: dict[str, Any]) -> list[str]:
    """Say in a sentence what each comparison found, and what it could have found."""
    sentences = []
    for row in record['rows']:
        difference = row['difference']
        if difference is None:
            continue
        said = f'{row["row"]} {_points(difference["mean"])} against {row["against"]}'
        if difference['seeds'] < 2:
            sentences.append(f'{said}: one seed, nothing can be said.')
            continue
        sentences.append(f'{said} ({_interval(difference)}): {_judgement(difference)}')
    return sentences


def _judgement(difference: dict[str, Any]) -> str:
    if difference['is_clear']:
        return 'a clear difference.'
    seen = f'{difference["seeds"]} seeds would have seen {100 * difference["least_visible"]:.2f} points.'
    if difference['is_clear_alone']:
        adjusted = difference['adjusted_p_value']
        return f'clear alone, but not among all comparisons of this table (p {adjusted:.3f}); {seen}'
    return f'no clear difference; {seen}'


def _selections(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Give what each run of a row that held frames out can leave unanswered."""
    return [run['selection'] for run in row['runs'] if run['selection']]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(value: float | None) -> str:
    return '-' if value is None else f'{value:.2%}'


def selection_verdict(record: dict[str, Any]) -> list[str]:
    """Say for each row what it leaves unanswered for the strictest error rate that all its seeds can promise."""
    sentences = []
    for row in record['rows']:
        for wanted in zip(*(selection['wanted'] for selection in _selections(row)), strict=True):
            if all('validation' in entry for entry in wanted):
                coverage, errors = (_mean([e['validation'][key] for e in wanted]) for key in ('coverage', 'error_rate'))
                sentences.append(
                    f'{row["row"]} answers {_share(coverage)} for at most {wanted[0]["error_rate"]:.0%} wrong by its '
                    f'held-out frames, and is wrong in {_share(errors)} of these answers.'
                )
                break
    return sentences


def _percent(summary: dict[str, Any]) -> str:
    deviation = summary['deviation']
    return f'{100 * summary["mean"]:.2f}' + ('' if deviation is None else f' ± {100 * deviation:.2f}')


def _paper(published: dict[str, Any] | None) -> str:
    return '' if published is None else f'{published["row"]} {_percent(published)}'


def _against(row: dict[str, Any]) -> str:
    return '' if row['difference'] is None else f'{row["against"]} {_points(row["difference"]["mean"])}'


def _interval(difference: dict[str, Any] | None) -> str:
    """Give what holds both intervals, that over seeds and that over seeds and frames; nothing for a single seed."""
    if difference is None or difference['seeds'] < 2:
        return ''
    low, high = min(difference['seed_low'], difference['low']), max(difference['seed_high'], difference['high'])
    return f'{_points(low)} … {_points(high)}'


def _of_difference(row: dict[str, Any], key: str, pattern: str) -> str:
    value = (row['difference'] or {}).get(key)
    return '' if value is None else pattern.format(value)


def _points(share: float) -> str:
    return f'{100 * share:+.2f}'


def _legend(record: dict[str, Any], columns: Collection[str]) -> str:
    """Explain the columns that a table has."""
    parts = ['n: seeds', 'accuracy and F1 (macro): mean ± standard deviation over them, in %']
    if 'against' in columns:
        parts.append('against: points more than the row named')
    if '95%' in columns:
        tested = sum((row['difference'] or {'seeds': 0})['seeds'] > 1 for row in record['rows'])
        number = f', adjusted for the {tested} comparisons of this table (Holm)' if tested > 1 else ''
        parts += [
            '95%: interval of that for other seeds and other frames, of this comparison alone',
            f'p: paired t test over seeds{number}',
            'visible: smallest difference, in points, that so many seeds would find in four of five studies',
        ]
    if 'paper, FLIR' in columns:
        parts.append("paper, FLIR: the paper's accuracy of the network named, on its own data")
    return f'{"; ".join(parts)}.'


def _notes(record: dict[str, Any]) -> list[str]:
    data, unfinished = record['data'], record['unfinished']
    counted = {split: sum(counts.values()) for split, counts in data['counts'].items()}
    notes = [
        f'Data: {data["name"]} ({data["origin"]}), {data["classes"]}, {counted["train"]:,} crops to train on and '
        f'{counted["validation"]:,} to evaluate on. Scale: {record["scale"]}.'
    ]
    if unfinished:
        notes.append(
            f'{unfinished} runs of this study are not finished.'
            if unfinished > 1
            else 'One run of this study is not finished.'
        )
    started = [f'{row["row"]} from {row["start"]}' for row in record['rows'] if row.get('start')]
    if started:
        notes.append(f'Trained weights that rows start from, seed by seed: {", ".join(started)}.')
    if record['rows_without_runs']:
        notes.append(f'No finished run yet: {", ".join(record["rows_without_runs"])}.')
    return [*notes, *(f'Left out: {problem}' for problem in record['problems'])]
