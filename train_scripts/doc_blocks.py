"""Results as the tables and blocks of README and docs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm_convattn.metrics import format_metrics
from timm_convattn.paper import SYSTEMS
from timm_convattn.results import BenchmarkResults, Comparison, ModelCosts, RunResults, StudyResults, read_results
from timm_convattn.studies.tables import LEGEND, format_selection, format_study, format_verdict, summarize_arm
from timm_convattn.tables import escape, markdown_table

__all__ = ['format_benchmark', 'render_results']


def format_models(costs: ModelCosts) -> str:
    """Return the costs of models as a Markdown table, the paper's systems first."""
    models = costs.models
    sizes = list(next(iter(models.values())).sizes)
    header = ['model', 'in the paper', 'parameters', *(f'GMACs at {size} px' for size in sizes)]
    header += [f'attention maps at {size} px' for size in sizes]
    rows = []
    papers = [name for name in SYSTEMS if name in models]
    for name in [*papers, *(name for name in models if name not in papers)]:
        each = [models[name].sizes[size] for size in sizes]
        maps = [', '.join(f'{height}x{width}' for height, width in cost.attention_maps) for cost in each]
        gmacs = [f'{cost.macs / 1e9:,.2f}' for cost in each]
        parameters = f'{models[name].parameters / 1e6:,.1f} M'
        rows.append([f'`{name}`', SYSTEMS.get(name, ''), parameters, *gmacs, *maps])
    return markdown_table(header, rows, right=range(2, 3 + len(sizes)))


def format_paper_models(costs: ModelCosts) -> str:
    """Return the costs of the paper's systems as a Markdown table."""
    models = {name: costs.models[name] for name in SYSTEMS}
    return format_models(ModelCosts(costs.num_classes, costs.versions, models))


def format_run(results: RunResults) -> str:
    """Return a run as a block of text: model, data, metrics, duration."""
    environment, training = results.environment, results.training
    hardware = environment.hardware
    lines = [
        f'{results.model.architecture} on {results.data.source}, split {results.data.split}',
        format_metrics(results.metrics),
    ]
    if training is not None:
        lines.append(
            f'{training.epochs} epochs in {training.seconds:.0f} s on {hardware.threads} threads of {hardware.cpu}, '
            f'torch {environment.versions["torch"]}, {environment.date[:10]}'
        )
    return '\n'.join(['```text', *lines, '```'])


def format_benchmark(results: BenchmarkResults) -> str:
    """Return a benchmark as a Markdown table: the comparisons, and how measurements grow with size."""
    peers = list(dict.fromkeys(each.peer for each in results.comparisons))
    cases: dict[str, dict[str, Comparison]] = {}
    for each in results.comparisons:
        cases.setdefault(each.case, {})[each.peer] = each
    header, rows = ['', 'ours', *peers], []
    for case, by_peer in cases.items():
        first = next(iter(by_peer.values()))
        theirs = [_theirs(by_peer[peer]) if peer in by_peer else '' for peer in peers]
        rows.append([case, f'{_number(first.ours)} {first.unit}', *theirs])
    if results.growth:
        empty = [''] * len(peers)
        rows.append(['growth of', 'exponent', *empty])
        for grown in results.growth:
            sizes = ', '.join(map(_number, grown.sizes))
            rows.append([f'{grown.case} with {sizes} {grown.of}', f'{grown.exponent:.2f}', *empty])
    environment = results.environment
    table = markdown_table(header, rows, right=range(1, len(header)))
    return f'{table}\n\n{environment.hardware.cpu}, one thread, {environment.date[:10]}.'


def _theirs(comparison: Comparison) -> str:
    spread = f' ± {comparison.spread:.2f}' if comparison.spread else ''
    return f'{_number(comparison.theirs)} (**{comparison.ratio:.2f}**{spread})'


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _of_file(kind: type[Any], show: Callable[[Any], str]) -> Callable[[str, Path], str]:
    return lambda file, root: show(read_results(root / file, kind))


def _summary(lines: str, root: Path) -> str:
    """Return a table of questions and answers from lines of `QUESTION | FILE | ARM` or `... | TARGET ERROR RATE`."""
    rows = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        question, file, *of_arm = (part.strip() for part in line.split('|'))
        results = read_results(root / file, StudyResults)
        rows.append([question, *map(escape, summarize_arm(results, *of_arm))])
    return markdown_table(['question', 'answer', 'compared', 'difference (95% interval)', 'data, seeds'], rows)


BLOCKS: dict[str, Callable[[str, Path], str]] = {
    'metrics': _of_file(RunResults, format_run),
    'models': _of_file(ModelCosts, format_models),
    'paper_models': _of_file(ModelCosts, format_paper_models),
    'benchmark': _of_file(BenchmarkResults, format_benchmark),
    'study': _of_file(StudyResults, format_study),
    'verdict': _of_file(StudyResults, format_verdict),
    'selection': _of_file(StudyResults, format_selection),
    'summary': _summary,
    'legend': lambda _, root: LEGEND,
}


def render_results(text: str, root: Path) -> str:
    """Fill the blocks of a Markdown text with results: numbers are rendered, not typed.

    A block is everything between `<!-- KIND FILE -->` and `<!-- end KIND -->`. KIND is `metrics` (a run), `models`,
    `paper_models`, `benchmark`, `study`, `verdict` (a study in three lines) or `selection`. `legend` (of the tables of
    studies) takes no file. `summary` takes lines of `QUESTION | FILE | ARM`, answered by the arm's comparison, and of
    `QUESTION | FILE | ARM | RATE`, answered by the arm's error rate at a target error rate.

    Args:
        text: The Markdown.
        root: The folder that FILE is relative to.

    Returns:
        The text with every block filled.
    """

    def fill(block: re.Match[str]) -> str:
        content = BLOCKS[block['kind']]((block['argument'] or '').strip(), root)
        return '\n'.join([block['start'], content, block['end']])

    kinds = '|'.join(BLOCKS)
    argument = r'(?:\s(?P<argument>[^>]*?))?'
    blocks = rf'(?P<start><!-- (?P<kind>{kinds}){argument}\s-->)\n.*?(?P<end><!-- end (?P=kind) -->)'
    return re.sub(blocks, fill, text, flags=re.DOTALL)
