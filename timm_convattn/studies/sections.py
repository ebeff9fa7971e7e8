"""Sections of a report: each study on each data set, as text, tables and figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from timm_convattn.errors import InputError
from timm_convattn.figures import draw_confusion_matrix, draw_crops, draw_predicted, rejected_crops
from timm_convattn.inference import load_classifier
from timm_convattn.paper import FINDINGS, TABLE_1, TABLE_4
from timm_convattn.results import StudyResults
from timm_convattn.selective import confidence
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.figures import (
    EncodedFigure,
    draw_attention,
    draw_classes,
    draw_grid,
    draw_reliability,
    draw_risk_coverage,
    draw_scores,
    encode,
)
from timm_convattn.studies.findings import Findings, FinishedRun
from timm_convattn.studies.page import Section
from timm_convattn.studies.summary import TARGET_ERROR_RATES, Selection, select, summarize
from timm_convattn.studies.tables import Table, class_table, selection_table, selection_verdict, study_table, verdict

__all__ = ['data_sections', 'study_sections']

NO_IMAGES = (
    'This report is computed from evidence without images and weights, so the figures that need them are left out.'
)
ARESNET = 'AResNet50'  # the network that the paper's figures 7 to 9 are about
Selections = Mapping[str, Sequence[tuple[FinishedRun, Selection]]]


def data_sections(data: StudyData) -> Iterator[Section]:
    """Yield the crop counts of a data set alongside the paper's, and some of its crops."""
    names = data.class_names
    counted = dict(data.counts) | {f"the paper's {split}": published for split, published in TABLE_1.items()}
    rows = [
        [split, *(f'{counts[name]:,}' for name in names), f'{sum(counts[name] for name in names):,}']
        for split, counts in counted.items()
    ]
    yield Section('Samples per class (Table 1)', blocks=[Table(['crops', *names, 'all'], rows)])
    if data.kept is not None:
        yield Section('Sample crops (Fig. 5)', statements=[NO_IMAGES])
        return
    sheet = encode(draw_crops(data.open()['train']), f'Some crops of {data.origin}, one row per class.', photo=True)
    yield Section('Sample crops (Fig. 5)', blocks=[sheet])


def study_sections(findings: Findings, scale: str) -> Iterator[Section]:
    """Yield what a study found on a data set."""
    if not findings.runs:
        statement = f'No run of this study is finished yet; {findings.unfinished} are missing.'
        yield Section(findings.study.title, statements=[statement, *findings.problems])
        return
    results, name = summarize(findings, scale), findings.study.name
    if grid := _grid(results):
        figure = encode(draw_grid(grid), 'Mean over seeds, for each number of heads and each pair of ratios.')
    else:
        figure = encode(draw_scores(results), f'{results.title}: dots are runs, bars are means.')
    blocks: list[Table | EncodedFigure] = [figure, study_table(results), class_table(results)]
    yield Section(results.title, FINDINGS.get(name, ''), verdict(results), blocks)
    pairs = {arm: [(run, select(run)) for run in runs] for arm, runs in findings.arms.items()}
    selections = {arm: [(run, each) for run, each in of_arm if each] for arm, of_arm in pairs.items()}
    if selections := {arm: of_arm for arm, of_arm in selections.items() if of_arm}:
        yield _selective_section(findings, results, selections)
    of_the_paper = [arm for arm, entry in findings.study.arms.items() if entry.paper == ARESNET and findings.arms[arm]]
    if name == 'table2' and of_the_paper:
        yield from _network_sections(findings, of_the_paper[0])
    if name == 'table2' and findings.data.classes == 'two_class':
        yield _published_section(results)


def _grid(results: StudyResults) -> dict[tuple[float, float, float], float]:
    """Return the scores of a grid over heads and ratios; empty for any other study."""
    cells = {}
    for arm in results.arms:
        model_args: Any = arm.options.get('model_args', [])
        args = dict(pair.split('=') for pair in model_args)
        if args.keys() != {'num_heads', 'qk_ratio', 'v_ratio'}:
            return {}
        key = (float(args['num_heads']), float(args['qk_ratio']), float(args['v_ratio']))
        cells[key] = arm.score(results.score).mean
    return cells


def _network_sections(findings: Findings, arm: str) -> Iterator[Section]:
    """Yield one run as the paper shows AResNet50 (classes, confusions, mistakes), and its attention."""
    run = findings.arms[arm][0]
    name = f'{arm}, seed {run.run.seed}'
    metrics = run.results.metrics
    classes = encode(draw_classes(metrics), f'{name}: precision, recall and F1 of each class.')
    text = f'Weighted F1 {metrics.weighted_f1:.2%}. {FINDINGS["fig7"]}'
    yield Section(f'Precision, recall and F1 of {arm} (Fig. 7)', text, blocks=[classes])
    confusions = encode(draw_confusion_matrix(run.results), f'{name}: counts, and shares of each true class.')
    yield Section(f'Confusion matrix of {arm} (Fig. 8)', FINDINGS['fig8'], blocks=[confusions])
    if findings.data.kept is not None:
        yield Section(f'Misclassified crops and attention of {arm} (Fig. 9)', statements=[NO_IMAGES])
        return
    crops = findings.data.open()['validation']
    mistakes = _draw_mistakes(crops, run)
    if mistakes is not None:
        caption = f'{name}: rows are true classes; below each crop its predicted class and the confidence.'
        figure = encode(mistakes, caption, photo=True)
        yield Section(f'Misclassified crops of {arm} (Fig. 9)', FINDINGS['fig9'], blocks=[figure])
    yield _attention_section(crops, run, f'Attention of {arm}', name)


def _attention_section(crops: Any, run: FinishedRun, title: str, name: str) -> Section:
    if not (run.folder / 'model').is_dir():
        return Section(title, statements=[f'The weights of {name} are not in {run.folder}.'])
    try:
        figure = _draw_attention(crops, run)
    except InputError as error:
        statement = f'The weights of {name} cannot be used: {error} Remove {run.folder} to repeat the run.'
        return Section(title, statements=[statement])
    caption = (
        f'{name}: the crop, and below it the attention that each position receives in each attention layer, from dark '
        '(less than uniform attention) to bright (twice uniform attention or more). The first half is classified '
        'correctly.'
    )
    return Section(title, blocks=[encode(figure, caption, photo=True)])


def _draw_mistakes(crops: Any, run: FinishedRun, columns: int = 10) -> Figure | None:
    """Draw the most confident mistakes of a run, a row for each true class; None if there are none."""
    predictions, confidences = run.predictions, confidence(run.predictions.logits)
    rows = {}
    for label, name in enumerate(predictions.class_names):
        wrong = np.flatnonzero((predictions.labels == label) & ~predictions.hits)
        if len(wrong):
            rows[name] = wrong[np.argsort(-confidences[wrong])][:columns].tolist()
    return draw_predicted(crops, predictions, confidences, rows, columns) if rows else None


def _draw_attention(crops: Any, run: FinishedRun, each: int = 5) -> Figure:
    """Draw the attention of a run over some crops that it classifies correctly and some that it does not."""
    predictions, rng = run.predictions, np.random.default_rng(0)
    right, wrong = (rng.permutation(np.flatnonzero(chosen))[:each] for chosen in (predictions.hits, ~predictions.hits))
    classifier = load_classifier(run.folder / 'model')
    names = classifier.class_names
    if names != predictions.class_names:
        raise InputError(f'their classes are {", ".join(names)}, not {", ".join(predictions.class_names)}.')
    height, width = classifier.data_config['input_size'][1:]
    chosen = [crops[int(index)]['image'] for index in (*right, *wrong)]
    images = classifier.to_batch(chosen)
    resized = [np.asarray(image.convert('L').resize((width, height))) for image in chosen]
    captions = [f'{names[predictions.labels[index]]}: correct' for index in right]
    captions += [
        f'{names[predictions.labels[index]]}, predicted\n{names[predictions.predicted[index]]}' for index in wrong
    ]
    return draw_attention(classifier.model, images, resized, captions)


def _selective_section(findings: Findings, results: StudyResults, selections: Selections) -> Section:
    arm, (run, selection) = next((arm, pairs[0]) for arm, pairs in selections.items())
    curves = draw_risk_coverage({arm: [each for _, each in pairs] for arm, pairs in selections.items()})
    areas = [
        [
            f'{arm}, seed {run.run.seed}',
            f'{each.rejection.temperature:.2f}',
            *(f'{value:.4f}' for value in (each.curve.area, each.curve.minimum_area)),
        ]
        for arm, pairs in selections.items()
        for run, each in pairs
    ]
    calibration = f'{arm}, seed {run.run.seed}: bars are accuracies, dots are placed at the mean confidence.'
    blocks: list[Table | EncodedFigure] = [
        encode(curves, 'Error rate of the most confident answers by coverage, a line for each run.'),
        Table(['run', 'temperature', 'area under the curve', 'minimum area'], areas),
        encode(draw_reliability(selection), calibration),
        selection_table(results),
    ]
    rejected = None if findings.data.kept is not None else _rejected(findings.data, run, selection)
    blocks += [] if rejected is None else [rejected]
    statements = [*selection_verdict(results), *([] if findings.data.kept is None else [NO_IMAGES])]
    title = f'Rejection: {findings.study.title}'
    return Section(title, FINDINGS['fig9'], statements, blocks)


def _rejected(data: StudyData, run: FinishedRun, selection: Selection) -> EncodedFigure | None:
    """Draw the least confident crops of a run below the threshold of the strictest target that has one."""
    for error_rate in TARGET_ERROR_RATES:
        try:
            threshold = selection.rejection.threshold(error_rate)
        except InputError:
            continue
        rows = rejected_crops(run.predictions, selection.confidence, threshold, columns=10)
        if rows:
            figure = draw_predicted(data.open()['validation'], run.predictions, selection.confidence, rows, columns=10)
            caption = (
                f'Rejected at a target error rate of {error_rate:.0%}: the least confident crops of each true class, '
                'with the most probable class.'
            )
            return encode(figure, caption, photo=True)
    return None


def _published_section(results: StudyResults) -> Section:
    """Return the two-class results alongside published ones (the paper's Table 4)."""
    source = f'measured here on {results.data.origin}'
    rows = [[arm.name, f'{arm.accuracy.mean:.2%}', source] for arm in results.arms]
    rows += [[entry.name, f'{entry.accuracy:.2%}', entry.source] for entry in TABLE_4]
    note = 'Only rows measured on the FLIR starter set can be compared with published ones.'
    table = Table(['', 'accuracy', 'source'], rows, [note])
    return Section('Published results on two-class FLIR (Table 4)', blocks=[table])
