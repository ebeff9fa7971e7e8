"""Figures of studies, and figures encoded as files."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
from matplotlib import rc_context
from matplotlib.figure import Figure

from timm_convattn.explain import attention_maps
from timm_convattn.results import Metrics, StudyResults
from timm_convattn.selective import reliability
from timm_convattn.studies.summary import Selection
from timm_convattn.studies.tables import NAMES

__all__ = [
    'EncodedFigure',
    'draw_attention',
    'draw_classes',
    'draw_grid',
    'draw_reliability',
    'draw_risk_coverage',
    'draw_scores',
    'encode',
]

COLORS = {'plain': '#7a8594', 'ours': '#c2410c', 'paper': '#1d4ed8'}
STYLE: Any = {
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.titlesize': 10,
    'svg.hashsalt': 'timm-convattn',  # makes the files reproducible
}


@dataclass(frozen=True)
class EncodedFigure:
    """Figure encoded as SVG, or as PNG for photographs."""

    content: bytes
    suffix: str
    caption: str

    @property
    def uri(self) -> str:
        """A `data:` URI that embeds the figure in a page."""
        media_type = {'png': 'image/png', 'svg': 'image/svg+xml'}[self.suffix]
        return f'data:{media_type};base64,{base64.b64encode(self.content).decode()}'


@rc_context(STYLE)
def encode(figure: Figure, caption: str, photo: bool = False) -> EncodedFigure:
    """Encode a figure as SVG, or as PNG for photographs."""
    buffer, suffix = io.BytesIO(), 'png' if photo else 'svg'
    metadata = {'Software': None} if photo else {'Date': None, 'Creator': None}
    figure.savefig(buffer, format=suffix, dpi=130 if photo else 'figure', metadata=metadata)
    return EncodedFigure(buffer.getvalue(), suffix, caption)


@rc_context(STYLE)
def draw_scores(results: StudyResults) -> Figure:
    """Draw the score of each seed of each arm and its mean, with the paper's accuracy on its own data at the right."""
    arms, score = results.arms, results.score
    with_paper = score == 'accuracy' and any(arm.paper for arm in arms)  # the paper reports no other score by arm
    figure = Figure(figsize=(8, 0.9 + 0.36 * len(arms)), layout='constrained')
    axes = figure.subplots()
    extended = {arm.against for arm in arms}
    for index, arm in enumerate(arms):
        color = COLORS['ours' if arm.against else 'plain']
        values = [run.accuracy if score == 'accuracy' else run.macro_f1 for run in arm.runs]
        axes.plot(values, [index] * len(values), 'o', color=color, alpha=0.45, markersize=6, markeredgewidth=0)
        axes.plot([np.mean(values)], [index], '|', color=color, markersize=18, markeredgewidth=2.5)
        if with_paper and arm.paper:
            text, right = f'{arm.paper.mean:.2%}', axes.get_yaxis_transform()
            axes.text(1.01, index, text, transform=right, va='center', color=COLORS['paper'])
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    for label, arm in zip(axes.get_yticklabels(), arms, strict=True):
        label.set_fontweight('normal' if arm.name in extended or not arm.against else 'bold')
    axes.invert_yaxis()
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis='x', color='#e5e7eb')
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: f'{100 * value:g}%')
    axes.set_xlabel(NAMES[score] + ('; at the right: the paper, on FLIR' if with_paper else ''))
    return figure


@rc_context(STYLE)
def draw_classes(metrics: Metrics) -> Figure:
    """Draw precision, recall and F1 of each class that has samples (the paper's Fig. 7)."""
    per_class = {name: scores for name, scores in metrics.per_class.items() if scores.support}
    figure = Figure(figsize=(1.2 + 1.5 * len(per_class), 2.8), layout='constrained')
    axes = figure.subplots()
    for index, (key, color) in enumerate(zip(('precision', 'recall', 'f1'), COLORS.values(), strict=True)):
        values = [getattr(scores, key) for scores in per_class.values()]
        bars = axes.bar(np.arange(len(values)) + 0.27 * (index - 1), values, 0.25, color=color, label=key)
        axes.bar_label(bars, [f'{100 * value:.1f}' for value in values], fontsize=7, padding=1)
    axes.set_xticks(range(len(per_class)), list(per_class))
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
    axes.legend(ncols=3, loc='upper center', bbox_to_anchor=(0.5, 1.2), frameon=False)
    return figure


@rc_context(STYLE)
def draw_grid(cells: dict[tuple[float, float, float], float]) -> Figure:
    """Draw a score over heads and ratios (the paper's Fig. 10).

    Args:
        cells: (num_heads, qk_ratio, v_ratio) -> score.
    """
    heads, qk_ratios, v_ratios = (sorted({key[axis] for key in cells}) for axis in range(3))
    low, high = min(cells.values()), max(cells.values())
    width = 1.6 + 0.95 * len(qk_ratios)
    figure = Figure(figsize=(width * len(v_ratios), 1.2 + 0.5 * len(heads)), layout='constrained')
    for axes, v_ratio in zip(figure.subplots(1, len(v_ratios), squeeze=False)[0], v_ratios, strict=True):
        values = np.array([[cells.get((h, qk, v_ratio), np.nan) for qk in qk_ratios] for h in heads])
        axes.imshow(values, cmap='viridis', vmin=low, vmax=max(high, low + 1e-9), aspect='auto')
        for row, column in np.argwhere(np.isfinite(values)):
            bright = values[row, column] > (low + high) / 2
            axes.text(column, row, f'{values[row, column]:.2%}', ha='center', va='center', color='k' if bright else 'w')
        axes.set_xticks(range(len(qk_ratios)), [f'{ratio:g}' for ratio in qk_ratios])
        axes.set_yticks(range(len(heads)), [f'{count:g}' for count in heads])
        axes.set_xlabel('d_k / D_out')
        axes.set_ylabel('heads')
        axes.set_title(f'd_v / D_out = {v_ratio:g}')
    return figure


@rc_context(STYLE)
def draw_risk_coverage(selections: dict[str, Sequence[Selection]]) -> Figure:
    """Draw risk against coverage, a line for each run, colored by arm."""
    figure = Figure(figsize=(5, 3.4), layout='constrained')
    axes = figure.subplots()
    for (arm, runs), color in zip(selections.items(), ['#c2410c', '#7a8594', '#1d4ed8', '#15803d'], strict=False):
        for index, selection in enumerate(runs):
            label = arm if index == 0 else None
            axes.plot(selection.curve.coverage, selection.curve.risk, color=color, alpha=0.8, lw=1.3, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel('coverage: share of crops answered')
    axes.set_ylabel('risk: share of answers that are wrong')
    axes.xaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
    axes.grid(color='#e5e7eb')
    axes.legend(frameon=False)
    return figure


@rc_context(STYLE)
def draw_reliability(selection: Selection) -> Figure:
    """Draw a reliability diagram of a run, without and with temperature."""
    figure = Figure(figsize=(6.6, 3.2), layout='constrained')
    shown = {
        'as trained': selection.plain_confidence,
        f'temperature {selection.rejection.temperature:.2f}': selection.confidence,
    }
    for axes, (title, confidences) in zip(figure.subplots(1, 2, sharey=True), shown.items(), strict=True):
        found = reliability(confidences, selection.hits)
        filled = found.counts > 0
        middles = (found.edges[1:] + found.edges[:-1]) / 2
        axes.bar(middles[filled], found.accuracies[filled], 1 / 15, color='#fdba74', edgecolor='white')
        axes.plot([0, 1], [0, 1], '--', color=COLORS['plain'], lw=1)
        sizes = 90 * np.sqrt(found.counts[filled] / found.counts.max())
        axes.scatter(found.confidences[filled], found.accuracies[filled], sizes, COLORS['ours'], zorder=3)
        axes.set_title(f'{title}: calibration error {found.error:.2%}')
        axes.set_xlabel('confidence')
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    figure.axes[0].set_ylabel('accuracy')
    return figure


@rc_context(STYLE)
def draw_attention(
    model: nn.Module, images: torch.Tensor, crops: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str]
) -> Figure:
    """Draw the attention that each position receives in each attention layer, below the crops.

    Args:
        model: The model.
        images: (B, C, H, W) input of the model.
        crops: The same crops, grayscale (H, W).
        captions: Title of each crop.
    """
    maps = attention_maps(model, images)
    size = (images.shape[2], images.shape[3])
    figure = Figure(figsize=(1.15 * len(crops), 1.25 * (1 + len(maps)) + 0.2), layout='constrained')
    grid = figure.subplots(1 + len(maps), len(crops), squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for column, (crop, caption) in enumerate(zip(crops, captions, strict=True)):
        grid[0, column].imshow(crop, cmap='gray', vmin=0, vmax=255)
        grid[0, column].set_title(caption, fontsize=7)
        for row, attention in enumerate(maps, start=1):
            weights = attention.over_image(size)[column].numpy()
            top = max(2.0, float(weights.max()))
            grid[row, column].imshow(crop, cmap='gray', vmin=0, vmax=255)
            grid[row, column].imshow(weights, cmap='inferno', vmin=0, vmax=top, alpha=0.55)
    for row, attention in enumerate(maps, start=1):
        height, width = attention.weights.shape[2:4]
        grid[row, 0].set_ylabel(f'{height} x {width}', fontsize=8)
    return figure
