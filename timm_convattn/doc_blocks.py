"""Results as text: blocks for a terminal, and tables for README and cards."""

import json
import re
from pathlib import Path
from typing import Any

from timm_convattn.data.crops import CropSet
from timm_convattn.metrics import format_metrics
from timm_convattn.paper import SYSTEMS, TABLE_1
from timm_convattn.studies.tables import format_selection, format_study
from timm_convattn.tables import format_table, markdown_table
from timm_convattn.units import giga, millions

__all__ = [
    'format_benchmark',
    'format_counts',
    'render_results',
]


def format_counts(crops: CropSet) -> str:
    """Show the crops per split and class, beside the paper's Table 1 for the paper's data, and what was left out."""
    header, rows = ['split', *crops.class_names, 'total'], []
    for split, counts in crops.counts.items():
        rows.append([split, *(f'{counts[name]:,}' for name in crops.class_names), f'{sum(counts.values()):,}'])
        if crops.is_starter_set and split in TABLE_1:
            paper = [TABLE_1[split][name] for name in crops.class_names]
            rows.append(['  paper, Table 1', *(f'{count:,}' for count in paper), f'{sum(paper):,}'])
    left_out = [
        f'left out of {split}: ' + ', '.join(f'{count:,} x {reason}' for reason, count in reasons.items())
        for split, reasons in crops.dropped.items()
        if reasons
    ]
    return '\n'.join([format_table(header, rows, right=range(1, len(header))), *left_out])


def format_models(record: dict[str, Any]) -> str:
    """Show what `timm_convattn.complexity.complexity_record` gives as a Markdown table, the paper's systems first."""
    models = record['models']
    sizes = list(next(iter(models.values()))['sizes'])
    header = ['model', 'in the paper', 'parameters', *(f'GMACs at {size} px' for size in sizes)]
    header += [f'attention maps at {size} px' for size in sizes]
    rows = []
    papers = [name for name in SYSTEMS if name in models]
    for name in [*papers, *(name for name in models if name not in papers)]:
        costs = [models[name]['sizes'][size] for size in sizes]
        maps = [', '.join(f'{height}x{width}' for height, width in cost['attention_maps']) for cost in costs]
        gmacs = [giga(cost['macs']) for cost in costs]
        rows.append([f'`{name}`', SYSTEMS.get(name, ''), millions(models[name]['parameters']), *gmacs, *maps])
    return markdown_table(header, rows, right=range(2, 3 + len(sizes)))


def format_paper_models(record: dict[str, Any]) -> str:
    """Show what `format_models` shows, of the paper's systems alone."""
    return format_models({**record, 'models': {name: record['models'][name] for name in SYSTEMS}})


def format_record(record: dict[str, Any]) -> str:
    """Show a results file of a run as a block of text: what was trained on what, its metrics, and how long it took."""
    environment, training = record['environment'], record['training']
    hardware = environment['hardware']
    lines = [
        '```text',
        f'{record["model"]["architecture"]} on {record["data"]["source"]}, split {record["data"]["split"]}',
        format_metrics(record['metrics']),
        f'{training["epochs"]} epochs in {training["seconds"]:.0f} s on {hardware["threads"]} threads of '
        f'{hardware["cpu"]}, torch {environment["versions"]["torch"]}, {environment["date"][:10]}',
        '```',
    ]
    return '\n'.join(lines)


def format_benchmark(record: dict[str, Any]) -> str:
    """Show what `train_scripts/benchmark.py` wrote as Markdown tables: the comparisons, and how things grow."""
    peers = list(dict.fromkeys(row['peer'] for row in record['rows']))
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in record['rows']:
        cases.setdefault(row['case'], {})[row['peer']] = row
    header, rows = ['', 'ours', *peers], []
    for case, beside in cases.items():
        first = next(iter(beside.values()))
        ours = f'{_number(first["ours"])} {first["unit"]}'
        rows.append([case, ours, *(_comparison(beside[peer]) if peer in beside else '' for peer in peers)])
    if record['growth']:
        rows += [['growth of', 'exponent', *[''] * len(peers)]]
        for grown in record['growth']:
            sizes = ', '.join(_number(size) for size in grown['sizes'])
            rows.append([f'{grown["case"]} with {sizes} {grown["of"]}', f'{grown["exponent"]:.2f}', *[''] * len(peers)])
    environment = record['environment']
    table = markdown_table(header, rows, right=range(1, len(header)))
    return f'{table}\n\n{environment["hardware"]["cpu"]}, one thread, {environment["date"][:10]}.'


def _comparison(row: dict[str, Any]) -> str:
    spread = f' ± {row["spread"]:.2f}' if row['spread'] else ''
    return f'{_number(row["theirs"])} (**{row["ratio"]:.2f}**{spread})'


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


BLOCKS = {
    'metrics': format_record,
    'models': format_models,
    'paper_models': format_paper_models,
    'benchmark': format_benchmark,
    'study': format_study,
    'selection': format_selection,
}


def render_results(text: str, root: Path) -> str:
    """Fill the blocks of a Markdown text that show a results file, so that no number is typed by hand.

    A block stands between `<!-- KIND FILE -->` and `<!-- end KIND -->`, where KIND is `metrics` (a run),
    `models`, `paper_models`, `benchmark`, `study` or `selection`.

    Args:
        text: The Markdown.
        root: The folder that FILE is relative to.

    Returns:
        The text with every block filled anew.
    """

    def fill(block: re.Match[str]) -> str:
        record = json.loads((root / block['file']).read_text())
        return '\n'.join([block['begin'], BLOCKS[block['kind']](record), block['end']])

    blocks = rf'(?P<begin><!-- (?P<kind>{"|".join(BLOCKS)}) (?P<file>\S+) -->)\n.*?(?P<end><!-- end (?P=kind) -->)'
    return re.sub(blocks, fill, text, flags=re.DOTALL)
