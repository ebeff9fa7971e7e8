"""The sections of a report: each study on each data set, as text, tables and pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import timm
import torch
from matplotlib.figure import Figure

from timm_convattn.errors import InputError
from timm_convattn.factory import load_network
from timm_convattn.figures import draw_confusion_matrix, draw_crops, draw_predicted, rejected_crops
from timm_convattn.models.config import model_data_config
from timm_convattn.paper import FINDINGS, TABLE_1, TABLE_4
from timm_convattn.selective import confidence
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.figures import (
    Picture,
    as_picture,
    draw_attention,
    draw_classes,
    draw_grid,
    draw_reliability,
    draw_risk_coverage,
    draw_scores,
)
from timm_convattn.studies.gathering import Findings, FinishedRun
from timm_convattn.studies.records import study_record
from timm_convattn.studies.selection import WANTED_RISKS, Selection, select
from timm_convattn.studies.tables import Table, class_table, selection_table, selection_verdict, study_table, verdict

__all__ = ['Section', 'data_sections', 'study_sections']

NO_IMAGES = (
    'This report is computed from evidence without images and weights, so the figures that need them are left out.'
)
ARESNET = 'AResNet50'  # of the paper: the network that its figures 7 to 9 are about


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    anchor: str
    """Name within its data set."""
    title: str
    text: str = ''
    statements: list[str] = field(default_factory=list)
    """What was found, a sentence each."""
    blocks: list[Table | Picture] = field(default_factory=list)


def data_sections(data: StudyData) -> Iterator[Section]:
    """Show a data set: its counts beside the paper's, and some of its crops."""
    names, totals = data.class_names, {split: sum(counts.values()) for split, counts in data.counts.items()}
    rows = [
        [split, *(f'{counts[name]:,}' for name in names), f'{totals[split]:,}'] for split, counts in data.counts.items()
    ]
    for split, published in TABLE_1.items():
        of_classes = [published[name] for name in names]
        rows.append([f"the paper's {split}", *(f'{count:,}' for count in of_classes), f'{sum(of_classes):,}'])
    counts = Table(['crops', *names, 'all'], rows)
    yield Section('table1', 'Samples per class (Table 1)', blocks=[counts])
    if data.kept is not None:
        yield Section('fig5', 'Sample crops (Fig. 5)', statements=[NO_IMAGES])
        return
    sheet = as_picture(draw_crops(data.open()['train']), f'Some crops of {data.origin}, a row a class.', photo=True)
    yield Section('fig5', 'Sample crops (Fig. 5)', blocks=[sheet])


def study_sections(findings: Findings, scale: str) -> Iterator[Section]:
    """Show what a study found on a data set."""
    if not findings.is_begun:
        said = [f'No run of this study is finished yet, {findings.unfinished} are to be made.', *findings.problems]
        yield Section(findings.study.name, findings.study.title, statements=said)
        return
    record, name = study_record(findings, scale), findings.study.name
    blocks: list[Table | Picture] = [
        as_picture(draw_scores(record), f'{record["title"]}: every dot is a run, bars are means.')
    ]
    grid = _grid(record)
    if grid:
        picture = as_picture(draw_grid(grid), 'Mean over the seeds, for each number of heads and each pair of ratios.')
        blocks = [picture]
    blocks += [study_table(record), class_table(record)]
    yield Section(name, record['title'], FINDINGS.get(name, ''), verdict(record), blocks)
    selections = _selections(findings)
    if selections:
        yield _selective_section(findings, record, selections)
    of_the_paper = [row for row, told in findings.study.rows.items() if told.paper == ARESNET and findings.rows[row]]
    if name == 'table2' and of_the_paper:
        yield from _network_sections(findings, of_the_paper[0])
    if name == 'table2' and findings.data.classes == 'two_class':
        yield _published_section(record)


def _grid(record: dict[str, Any]) -> dict[tuple[float, float, float], float]:
    """Read the scores of a grid over heads and ratios off a study's rows; empty for any other study."""
    cells = {}
    for row in record['rows']:
        args = dict(pair.split('=') for pair in row['options'].get('model_args', []))
        if args.keys() != {'num_heads', 'qk_ratio', 'v_ratio'}:
            return {}
        key = (float(args['num_heads']), float(args['qk_ratio']), float(args['v_ratio']))
        cells[key] = row[record['score']]['mean']
    return cells


def _network_sections(findings: Findings, row: str) -> Iterator[Section]:
    """Show one run as the paper shows AResNet50: classes, confusions, mistakes; and where its attention looks."""
    run = findings.rows[row][0]
    who = f'{row}, seed {run.run.seed}'
    metrics = run.record['metrics']
    classes = as_picture(draw_classes(metrics), f'{who}: precision, recall and F1 of each class.')
    text = f'Weighted F1 {metrics["weighted_f1"]:.2%}. {FINDINGS["fig7"]}'
    yield Section('fig7', f'Precision, recall and F1 of {row} (Fig. 7)', text, blocks=[classes])
    confusions = as_picture(draw_confusion_matrix(run.record), f'{who}: counts, and shares of each true class.')
    yield Section('fig8', f'Confusion matrix of {row} (Fig. 8)', FINDINGS['fig8'], blocks=[confusions])
    if findings.data.kept is not None:
        yield Section('fig9', f'Misclassified crops and attention of {row} (Fig. 9)', statements=[NO_IMAGES])
        return
    crops = findings.data.open()['validation']
    mistakes = _draw_mistakes(crops, run)
    if mistakes is not None:
        caption = f'{who}: true class before the row; below each crop what it was taken for, with which confidence.'
        pictures: list[Table | Picture] = [as_picture(mistakes, caption, photo=True)]
        yield Section('fig9', f'Misclassified crops of {row} (Fig. 9)', FINDINGS['fig9'], blocks=pictures)
    title = f'Where the attention of {row} looks'
    if not (run.folder / 'model').is_dir():
        yield Section('attention', title, statements=[f'The weights of {who} are not in {run.folder}.'])
        return
    try:
        looks = _draw_looks(crops, run)
    except InputError as error:
        said = f'The weights of {who} cannot be used: {error} Remove {run.folder} to repeat the run.'
        yield Section('attention', title, statements=[said])
        return
    caption = (
        f'{who}: the crop, and below it how much each position is looked at, from dark (less than evenly) to bright '
        '(twice as much and more), for the map that each attention reads. The first half was decided right.'
    )
    yield Section('attention', title, blocks=[as_picture(looks, caption, photo=True)])


def _draw_mistakes(crops: Any, run: FinishedRun, columns: int = 10) -> Figure | None:
    """Draw the mistakes that a run is surest of, a row for each true class; None where it makes none."""
    predictions, sureness = run.predictions, confidence(run.predictions.logits)
    rows = {}
    for label, name in enumerate(predictions.class_names):
        wrong = np.flatnonzero((predictions.labels == label) & ~predictions.hits)
        if len(wrong):
            rows[name] = wrong[np.argsort(-sureness[wrong])][:columns].tolist()
    return draw_predicted(crops, predictions, sureness, rows, columns) if rows else None


def _draw_looks(crops: Any, run: FinishedRun, each: int = 5) -> Figure:
    """Draw the attention of a run over some crops that it decides right and some that it does not."""
    predictions, rng = run.predictions, np.random.default_rng(0)
    right, wrong = (rng.permutation(np.flatnonzero(chosen))[:each] for chosen in (predictions.hits, ~predictions.hits))
    model, names = load_network(f'local-dir:{run.folder / "model"}')
    if tuple(names) != predictions.class_names:
        raise InputError(f'they tell {", ".join(names)} apart, not {", ".join(predictions.class_names)}.')
    config = model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    channels, height, width = config['input_size']
    chosen = [crops[int(index)]['image'] for index in (*right, *wrong)]
    images = torch.stack([transform(image.convert('L' if channels == 1 else 'RGB')) for image in chosen])
    pictures = [np.asarray(image.convert('L').resize((width, height))) for image in chosen]
    captions = [f'{names[predictions.labels[index]]}: right' for index in right]
    captions += [
        f'{names[predictions.labels[index]]}, taken for\n{names[predictions.predicted[index]]}' for index in wrong
    ]
    return draw_attention(model, images, pictures, captions)


def _selections(findings: Findings) -> dict[str, list[tuple[FinishedRun, Selection]]]:
    found: dict[str, list[tuple[FinishedRun, Selection]]] = {}
    for row, runs in findings.rows.items():
        pairs = [(run, selection) for run in runs if (selection := select(run)) is not None]
        if pairs:
            found[row] = pairs
    return found


def _selective_section(
    findings: Findings, record: dict[str, Any], selections: dict[str, list[tuple[FinishedRun, Selection]]]
) -> Section:
    """Show what runs that held frames out can leave unanswered."""
    row, (run, selection) = next((row, pairs[0]) for row, pairs in selections.items())
    curves = draw_risk_coverage({row: [selection for _, selection in pairs] for row, pairs in selections.items()})
    areas = [
        [
            f'{row}, seed {run.run.seed}',
            f'{each.rejection.temperature:.2f}',
            *(f'{value:.4f}' for value in (each.curve.area, each.curve.least_area)),
        ]
        for row, pairs in selections.items()
        for run, each in pairs
    ]
    blocks: list[Table | Picture] = [
        as_picture(curves, 'The surest answers first: how many of them are wrong, a line for each run.'),
        Table(['run', 'temperature', 'area under the curve', 'least area'], areas),
        as_picture(
            draw_reliability(selection), f'{row}, seed {run.run.seed}: bars are shares, dots sit at the confidence.'
        ),
        selection_table(record),
    ]
    rejected = None if findings.data.kept is not None else _rejected(findings.data, run, selection)
    if rejected is not None:
        blocks.append(rejected)
    statements = [*selection_verdict(record), *([] if findings.data.kept is None else [NO_IMAGES])]
    title = f'What should not be classified: {findings.study.title}'
    return Section(f'{findings.study.name}-rejected', title, FINDINGS['fig9'], statements, blocks)


def _rejected(data: StudyData, run: FinishedRun, selection: Selection) -> Picture | None:
    """Draw the crops that a run is least sure of below the strictest threshold that can be promised."""
    for wanted in WANTED_RISKS:
        try:
            threshold = selection.rejection.threshold(wanted)
        except InputError:
            continue
        rows = rejected_crops(run.predictions, selection.confidence, threshold, columns=10)
        if rows:
            figure = draw_predicted(data.open()['validation'], run.predictions, selection.confidence, rows, columns=10)
            caption = (
                f'Rejected for an error rate of {wanted:.0%}: the least sure of each true class, and the best guess.'
            )
            return as_picture(figure, caption, photo=True)
    return None


def _published_section(record: dict[str, Any]) -> Section:
    """Show the two-class results beside published ones (the paper's Table 4)."""
    rows = [
        [row['row'], f'{row["accuracy"]["mean"]:.2%}', f'measured here on {record["data"]["origin"]}']
        for row in record['rows']
    ]
    rows += [[entry.name, f'{entry.accuracy:.2%}', entry.source] for entry in TABLE_4]
    note = 'Only rows measured on the FLIR starter set can be compared with published ones.'
    table = Table(['', 'accuracy', 'source'], rows, [note])
    return Section('table4', 'Beside published results on two-class FLIR (Table 4)', blocks=[table])
