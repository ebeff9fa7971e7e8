"""Results into tables and figures."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure  # not pyplot: figures go to files, and a notebook keeps its own backend

from timm_convattn.data.crops import CropSet
from timm_convattn.predictions import Predictions
from timm_convattn.studies.tables import format_study

__all__ = [
    'PAPER_TABLE_1',
    'draw_confusion_matrix',
    'draw_crops',
    'draw_predicted',
    'draw_sheet',
    'format_benchmark',
    'format_counts',
    'format_metrics',
    'format_rejection',
    'format_table',
    'plot_confusion_matrix',
    'plot_crops',
    'rejected_crops',
    'render_results',
]

# Table 1 of the paper: crops of the FLIR starter set (v1.3). Its test crops are FLIR's validation frames.
PAPER_TABLE_1 = {
    'train': {'person': 22_372, 'vehicle': 41_260, 'bicycle': 3_986, 'dog': 226},
    'validation': {'person': 5_779, 'vehicle': 5_432, 'bicycle': 471, 'dog': 14},
}


# The systems of the paper's Table 2 by the names that they have here and in timm.
PAPER_SYSTEMS = {
    'aresnet50_relmha': 'AResNet50',
    'avgg16_relmha': 'AVGG16',
    'aaresnet50': 'AAResNet50',
    'aavgg16': 'AAVGG16',
    'resnet50': 'ResNet50',
    'vgg16_gap': 'VGG16',
}


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


def format_counts(crops: CropSet) -> str:
    """Show the crops per split and class, beside the paper's Table 1 for the paper's data, and what was left out."""
    rows = [['split', *crops.class_names, 'total']]
    for split, counts in crops.counts.items():
        rows.append([split, *(f'{counts[name]:,}' for name in crops.class_names), f'{sum(counts.values()):,}'])
        if crops.is_starter_set and split in PAPER_TABLE_1:
            paper = [PAPER_TABLE_1[split][name] for name in crops.class_names]
            rows.append(['  paper, Table 1', *(f'{count:,}' for count in paper), f'{sum(paper):,}'])
    left_out = [
        f'left out of {split}: ' + ', '.join(f'{count:,} x {reason}' for reason, count in reasons.items())
        for split, reasons in crops.dropped.items()
        if reasons
    ]
    return '\n'.join([format_table(rows), *left_out])


def format_metrics(metrics: dict[str, Any]) -> str:
    """Show the metrics of `timm_convattn.metrics.compute_metrics`, class by class and over all."""
    rows = [['class', 'precision', 'recall', 'F1', 'samples']]
    for name, scores in metrics['per_class'].items():
        values = ['-' if scores[key] is None else f'{scores[key]:.4f}' for key in ('precision', 'recall', 'f1')]
        rows.append([name, *values, f'{scores["support"]:,}' if scores['support'] else 'no sample'])
    absent = metrics['absent_classes']
    lines = [
        format_table(rows),
        f'accuracy {metrics["accuracy"]:.4f}, macro F1 {metrics["macro_f1"]:.4f}, '
        f'weighted F1 {metrics["weighted_f1"]:.4f} over {metrics["num_samples"]:,} crops'
        + (f' (macro over the classes with samples; none of {", ".join(absent)})' if absent else ''),
    ]
    return '\n'.join(lines)


def format_rejection(rejection: dict[str, Any]) -> str:
    """Show what is left when a model may reject: how much is answered, and how much of that is right."""
    accuracy = rejection['accuracy']
    return (
        f'answered with a confidence of {rejection["threshold"]:.4f} and more, for at most '
        f'{rejection["wanted_error_rate"]:.2%} wrong: {rejection["num_answered"]:,} crops, coverage '
        f'{rejection["coverage"]:.4f}, accuracy ' + ('-' if accuracy is None else f'{accuracy:.4f}')
    )


def format_models(record: dict[str, Any]) -> str:
    """Show what `timm_convattn.complexity.complexity_record` gives as a Markdown table, the paper's systems first."""
    models = record['models']
    sizes = list(next(iter(models.values()))['sizes'])
    header = ['model', 'in the paper', 'parameters', *(f'GMACs at {size} px' for size in sizes)]
    header += [f'attention maps at {size} px' for size in sizes]
    rows = [header, ['---', '---', *['---:'] * (1 + len(sizes)), *['---'] * len(sizes)]]
    papers = [name for name in PAPER_SYSTEMS if name in models]
    for name in [*papers, *(name for name in models if name not in papers)]:
        costs = [models[name]['sizes'][size] for size in sizes]
        maps = [', '.join(f'{height}x{width}' for height, width in cost['attention_maps']) for cost in costs]
        parameters = f'{models[name]["parameters"] / 1e6:.1f} M'
        gmacs = [f'{cost["macs"] / 1e9:.2f}' for cost in costs]
        rows.append([f'`{name}`', PAPER_SYSTEMS.get(name, ''), parameters, *gmacs, *maps])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def format_paper_models(record: dict[str, Any]) -> str:
    """Show what `format_models` shows, of the paper's systems alone."""
    return format_models({**record, 'models': {name: record['models'][name] for name in PAPER_SYSTEMS}})


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
    rows = [['', 'ours', *peers], ['---', '---:', *['---:'] * len(peers)]]
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
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([*lines, '', f'{environment["hardware"]["cpu"]}, one thread, {environment["date"][:10]}.'])


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
}


def render_results(text: str, root: Path) -> str:
    """Fill the blocks of a Markdown text that show a results file, so that no number is typed by hand.

    A block stands between `<!-- KIND FILE -->` and `<!-- end KIND -->`, where KIND is `metrics` (a run),
    `models`, `paper_models`, `benchmark` or `study`.

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


def plot_confusion_matrix(record: dict[str, Any], path: Path) -> None:
    """Draw the confusion matrix of a results file to a PNG.

    Args:
        record: What `evaluation_record` gives.
        path: The PNG to write.
    """
    draw_confusion_matrix(record).savefig(path, dpi=120)


def draw_confusion_matrix(record: dict[str, Any]) -> Figure:
    """Draw the confusion matrix of a results file: true classes in rows, predicted ones in columns, shares as colours.

    Args:
        record: What `evaluation_record` gives.
    """
    data, metrics = record['data'], record['metrics']
    class_names, counts = data['class_names'], np.asarray(metrics['confusion_matrix'])
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = Figure(figsize=(1.6 + 1.1 * len(counts), 1.4 + 0.9 * len(counts)), layout='constrained')
    axes = figure.subplots()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    for row, column in np.ndindex(*counts.shape):
        text = f'{counts[row, column]:,}\n{shares[row, column]:.1%}' if totals[row, 0] else '-'
        axes.text(column, row, text, ha='center', va='center', color='white' if shares[row, column] > 0.5 else 'black')
    names = [name if total else f'{name}\n(no sample)' for name, total in zip(class_names, totals[:, 0], strict=True)]
    axes.set_xticks(range(len(counts)), class_names)
    axes.set_yticks(range(len(counts)), names)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    title = f'{record["model"]["architecture"]} on {data["source"]}, {data["split"]}: accuracy'
    axes.set_title(f'{title} {metrics["accuracy"]:.2%}', wrap=True)
    return figure


def plot_crops(crops: Any, path: Path, per_class: int = 12, seed: int = 0) -> None:
    """Draw a sheet of crops as `draw_crops` does to a PNG."""
    draw_crops(crops, per_class, seed).savefig(path, dpi=120)


def draw_crops(crops: Any, per_class: int = 12, seed: int = 0) -> Figure:
    """Draw a sheet of randomly chosen crops, one row for each class that has any (as the paper's Fig. 5).

    Args:
        crops: A `datasets.Dataset` with columns `image` and `label`.
        per_class: Crops in a row.
        seed: Seed of the choice.
    """
    labels = np.asarray(crops['label'])
    names = crops.features['label'].names
    present = [index for index in range(len(names)) if (labels == index).any()]
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in present]
    rows = {
        names[label]: [np.asarray(crops[int(index)]['image'].convert('L')) for index in indices]
        for label, indices in zip(present, chosen, strict=True)
    }
    return draw_sheet(rows, per_class)


def rejected_crops(
    predictions: Predictions, sureness: npt.NDArray[np.float64], threshold: float, columns: int
) -> dict[str, list[int]]:
    """Choose the crops of each true class that a model is least sure of, among those below a threshold.

    Args:
        predictions: What it says of a split.
        sureness: (N,) how sure it is.
        threshold: The confidence from which on it answers.
        columns: Crops of each class at most.

    Returns:
        Class -> indices of crops; classes without any are left out.
    """
    chosen = {}
    for label, name in enumerate(predictions.class_names):
        below = np.flatnonzero((predictions.labels == label) & (sureness < threshold))
        chosen[name] = below[np.argsort(sureness[below])][:columns].tolist()
    return {name: indices for name, indices in chosen.items() if indices}


def draw_predicted(
    crops: Any, predictions: Predictions, sureness: npt.NDArray[np.float64], rows: dict[str, list[int]], columns: int
) -> Figure:
    """Draw crops with what a model takes them for and how sure it is.

    Args:
        crops: The split, a `datasets.Dataset` with a column `image`.
        predictions: What the model says of it.
        sureness: (N,) how sure it is.
        rows: What stands before each row, and the indices of its crops.
        columns: Crops that a row has room for.
    """

    def caption(index: int) -> str:
        return f'{predictions.class_names[predictions.predicted[index]]}\n{sureness[index]:.0%}'

    pictures = {
        name: [np.asarray(crops[index]['image'].convert('L')) for index in indices] for name, indices in rows.items()
    }
    return draw_sheet(
        pictures, columns, {name: [caption(index) for index in indices] for name, indices in rows.items()}
    )


def draw_sheet(rows: dict[str, list[npt.NDArray[np.uint8]]], columns: int, captions: Any = None) -> Figure:
    """Draw grey pictures of any sizes as rows of squares.

    Args:
        rows: What stands before each row, and its pictures (H, W).
        columns: Pictures that a row has room for.
        captions: What stands below the pictures, in the same rows; nothing if None.
    """
    figure = Figure(figsize=(columns, (1.1 if captions is None else 1.45) * len(rows)), layout='constrained')
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        for place, (axes, picture) in enumerate(zip(line, pictures, strict=False)):
            axes.imshow(picture, cmap='gray', vmin=0, vmax=255, aspect='auto')
            axes.set_box_aspect(1)
            if captions is not None:
                axes.set_xlabel(captions[name][place], fontsize=7)
    return figure
