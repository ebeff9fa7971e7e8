"""Results files of studies as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    'Table',
    'class_table',
    'format_study',
    'markdown_table',
    'selection_table',
    'selection_verdict',
    'study_table',
    'verdict',
]

SCORES = {'accuracy': 'accuracy', 'macro_f1': 'macro F1'}


@dataclass(frozen=True)
class Table:
    """A table for people."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)
    highlighted: frozenset[int] = frozenset()
    """Rows that a reader should see first."""


def markdown_table(table: Table) -> str:
    """Show a table in Markdown, the first column to the left and the others to the right."""
    lines = [table.header, ['---', *['---:'] * (len(table.header) - 1)], *table.rows]
    text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    return '\n\n'.join([text, *table.notes])


def format_study(record: dict[str, Any]) -> str:
    """Show a study in Markdown: what was found, and the table."""
    return '\n\n'.join(['\n'.join(f'- {said}' for said in verdict(record)), markdown_table(study_table(record))])


def study_table(record: dict[str, Any]) -> Table:
    """Show a study: each row's score over seeds, the paper's beside it, and the difference to the row it extends."""
    score = record['score']
    other = 'macro_f1' if score == 'accuracy' else 'accuracy'
    with_paper = any(row['paper'] for row in record['rows'])
    header = ['', 'seeds', SCORES[score], *(["the paper's"] if with_paper else []), SCORES[other]]
    header += ['difference', '95% (seeds)', '95% (seeds, frames)', 'p', 'least visible']
    rows = []
    for row in record['rows']:
        cells = [row['row'], str(len(row['runs'])), _percent(row[score])]
        cells += [_paper(row['paper'])] if with_paper else []
        rows.append([*cells, _percent(row[other]), *_difference(row)])
    clear = {index for index, row in enumerate(record['rows']) if (row['difference'] or {}).get('is_clear')}
    return Table(header, rows, _notes(record), frozenset(clear))


def class_table(record: dict[str, Any]) -> Table:
    """Show the F1 of each class, row by row, as a mean over the seeds."""
    names = record['data']['class_names']
    rows = [[row['row'], *(_share(row['per_class_f1'][name]) for name in names)] for row in record['rows']]
    return Table(['F1', *names], rows)


def selection_table(record: dict[str, Any]) -> Table:
    """Show what each row leaves unanswered at each wanted error rate: the mean over seeds that find a threshold."""
    header = ['wanted error rate', 'row', 'seeds with a threshold', 'answered', 'error rate of the answers']
    rows = []
    for row in record['rows']:
        selections = [run['selection'] for run in row['runs'] if run['selection']]
        for wanted in zip(*(selection['wanted'] for selection in selections), strict=True):
            found = [entry['validation'] for entry in wanted if 'validation' in entry]
            cells = [f'{wanted[0]["error_rate"]:.0%}', row['row'], f'{len(found)} of {len(wanted)}']
            coverage = [entry['coverage'] for entry in found]
            errors = [entry['error_rate'] for entry in found if entry['error_rate'] is not None]
            rows.append([*cells, _share(_mean(coverage)), _share(_mean(errors))])
    return Table(header, rows, ['Thresholds are chosen on held-out training frames, for a certainty of 95% there.'])


def verdict(record: dict[str, Any]) -> list[str]:
    """Say in a sentence what each comparison found, and what it could have found."""
    sentences = []
    for row in record['rows']:
        difference = row['difference']
        if difference is None:
            continue
        mean, low, high = (difference[key] for key in ('mean', 'low', 'high'))
        said = f'{row["row"]} {_points(mean)} against {row["against"]} ({_points(low)} to {_points(high)}): '
        if difference['seeds'] < 2:
            said += 'one seed, nothing can be said.'
        elif difference['is_clear']:
            said += 'a clear difference.'
        else:
            least = difference['least_visible']
            said += f'no clear difference; {difference["seeds"]} seeds would have seen {100 * least:.2f} points.'
        sentences.append(said)
    return sentences


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(value: float | None) -> str:
    return '-' if value is None else f'{value:.2%}'


def selection_verdict(record: dict[str, Any]) -> list[str]:
    """Say for each row what it leaves unanswered for the strictest error rate that all its seeds can promise."""
    sentences = []
    for row in record['rows']:
        selections = [run['selection'] for run in row['runs'] if run['selection']]
        for wanted in zip(*(selection['wanted'] for selection in selections), strict=True):
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
    return f'{summary["mean"]:.2%}' + ('' if deviation is None else f' ± {100 * deviation:.2f}')


def _paper(published: dict[str, Any] | None) -> str:
    return '' if published is None else f'{published["mean"]:.2%} ± {100 * published["deviation"]:.2f}'


def _difference(row: dict[str, Any]) -> list[str]:
    difference = row['difference']
    if difference is None:
        return [''] * 5
    cells = [f'{_points(difference["mean"])} to {row["against"]}']
    over_both = f'{_points(difference["low"])} … {_points(difference["high"])}'
    if difference['seeds'] < 2:
        return [*cells, '', over_both, '', '']
    over_seeds = f'{_points(difference["seed_low"])} … {_points(difference["seed_high"])}'
    return [*cells, over_seeds, over_both, f'{difference["p_value"]:.3f}', f'{100 * difference["least_visible"]:.2f}']


def _points(share: float) -> str:
    return f'{100 * share:+.2f}'


def _notes(record: dict[str, Any]) -> list[str]:
    data = record['data']
    counted = {split: sum(counts.values()) for split, counts in data['counts'].items()}
    notes = [
        f'Data: {data["name"]} ({data["origin"]}), {data["classes"]}, {counted["train"]:,} crops to train on and '
        f'{counted["validation"]:,} to evaluate on. Scale: {record["scale"]}. Differences in points.'
    ]
    if record['unfinished']:
        notes.append(f'{record["unfinished"]} runs of this study are not finished.')
    if record['rows_without_runs']:
        notes.append(f'No finished run yet: {", ".join(record["rows_without_runs"])}.')
    return [*notes, *(f'Left out: {problem}' for problem in record['problems'])]
