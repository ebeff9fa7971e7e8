"""The figure of an explanation: the input image and the maps over it, the heads below, bar charts on the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from timm_convattn.explain.contributions import Contributions
from timm_convattn.explain.explanation import Explanation

__all__ = ['draw_figure']

STYLE: Any = {'font.size': 9, 'axes.titlesize': 9, 'axes.spines.top': False, 'axes.spines.right': False}
EXPLAINED, OTHER = '#c2410c', '#c3c9d1'
PARTS = {'convolution': '#1d4ed8', 'attention': '#c2410c', 'bias': '#7a8594'}
TILE, SMALL = 1.8, 1.0  # sides of the tile of a map and of a head, in inches, if they are square
TITLES = 0.45  # height of the titles above each row of tiles
COLOUR_BAR = 1.0  # its width
BARS = 3.4  # width of the bar charts
NARROWEST, WIDEST = 0.75, 2.5  # ratio of width to height of a tile
HEADS_IN_ROW = 8
CLASSES = 6


@dataclass(frozen=True)
class Tile:
    """A map that is drawn over the input image, or the image alone."""

    title: str
    values: npt.NDArray[np.float32] | None
    is_attention: bool = False


def draw_figure(explanation: Explanation) -> Figure:
    """Draw an explanation; the size of the figure depends on the number of maps and heads."""
    tiles, rows = _tiles(explanation), _head_rows(explanation)
    height, width = explanation.input_image.shape[:2]
    stretch = min(max(width / height, NARROWEST), WIDEST) ** 0.5  # tiles have the same area for any shape
    across = max([TILE * stretch * len(tiles), *(SMALL * stretch * HEADS_IN_ROW for _ in rows)]) + COLOUR_BAR
    heights = [TILE / stretch + TITLES, *(SMALL / stretch + TITLES for _ in rows)]
    with rc_context(STYLE):
        figure = Figure(figsize=(across + BARS, max(sum(heights), 3.2) + 0.4), layout='constrained')
        figure.suptitle(_title(explanation), x=0.01, ha='left', fontsize=12, fontweight='bold')
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[across, BARS])[0]
        parts = left.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, row in zip(parts, [tiles, *rows], strict=True):
            _draw_row(part, explanation, row, len(tiles) if row is tiles else HEADS_IN_ROW)
        _draw_bars(right, explanation)
    return figure


def _title(explanation: Explanation) -> str:
    title = f'{explanation.label}, {explanation.confidence:.1%}'
    if explanation.label != explanation.predicted:
        title += f' (predicted: {explanation.predicted}, {explanation.probabilities.max():.1%})'
    return title


def _tiles(explanation: Explanation) -> list[Tile]:
    """Return the input image, Grad-CAM, and the mean over the heads of each attention layer."""
    tiles = [Tile('input image', None)]
    if explanation.grad_cam is not None:
        tiles.append(Tile(f'Grad-CAM for {explanation.label}', explanation.grad_cam))
    for index, found in enumerate(explanation.attention):
        title = f'{found.layer}\n{found.feat_size[0]} x {found.feat_size[1]}, mean of {found.num_heads} heads'
        tiles.append(Tile(title, explanation.attention_over_image(index), is_attention=True))
    return tiles


def _head_rows(explanation: Explanation) -> list[list[Tile]]:
    """Return the heads of each attention layer that has several, row by row."""
    rows = []
    for index, found in enumerate(explanation.attention):
        for start in range(0, found.num_heads if found.num_heads > 1 else 0, HEADS_IN_ROW):
            heads = range(start, min(start + HEADS_IN_ROW, found.num_heads))
            titles = [f'{found.layer}\nhead {start}', *(f'head {head}' for head in heads[1:])]
            maps = [explanation.attention_over_image(index, head) for head in heads]
            rows.append([Tile(title, values, is_attention=True) for title, values in zip(titles, maps, strict=True)])
    return rows


def _draw_row(part: SubFigure, explanation: Explanation, tiles: Sequence[Tile], columns: int) -> None:
    """Draw tiles side by side, with one colour bar of the attention for the row."""
    grid = part.subplots(1, columns, squeeze=False)[0]
    for axes in grid:
        axes.set_axis_off()
    maps = [tile.values for tile in tiles if tile.values is not None and tile.is_attention]
    brightest = max([2.0, *(float(values.max()) for values in maps)])
    images = [_draw_tile(axes, explanation, tile, brightest) for axes, tile in zip(grid, tiles, strict=False)]
    scaled = [(axes, image) for axes, image, tile in zip(grid, images, tiles, strict=False) if tile.is_attention]
    if scaled:
        bar = part.colorbar(scaled[0][1], ax=list(grid), shrink=0.85, aspect=15, pad=0.01, ticks=MaxNLocator(4))
        bar.ax.tick_params(labelsize=7)
        bar.set_label('x uniform attention' if scaled[0][0] is not grid[0] else '', fontsize=7)


def _draw_tile(axes: Axes, explanation: Explanation, tile: Tile, brightest: float) -> AxesImage:
    """Draw a map over the input image."""
    image = axes.imshow(explanation.input_image, cmap='gray', vmin=0, vmax=255)
    axes.set_title(tile.title, fontsize=8)
    if tile.values is not None:
        largest = brightest if tile.is_attention else 1.0
        image = axes.imshow(tile.values, cmap='inferno', vmin=0, vmax=largest, alpha=0.55)
    if tile.is_attention and explanation.position is not None:
        row, column = explanation.position
        axes.plot(column, row, '+', color='#22d3ee', markersize=9, markeredgewidth=1.6)
    return image


def _draw_bars(part: SubFigure, explanation: Explanation) -> None:
    """Draw the probabilities, and the contributions to the logit and to the margin."""
    sums = {f'logit of {explanation.label}': explanation.contributions, explanation.margin_title: explanation.margin}
    split = {name: parts for name, parts in sums.items() if parts is not None}
    order = np.argsort(-explanation.probabilities, kind='stable')[:CLASSES]
    heights = [0.5 + 0.25 * len(order)] + ([0.75 + 0.5 * len(split)] if split else [])
    grid = part.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    names = [explanation.class_names[index] for index in order]
    colours = [EXPLAINED if name == explanation.label else OTHER for name in names]
    bars = grid[0].barh(names, explanation.probabilities[order], color=colours)
    grid[0].bar_label(bars, [f'{explanation.probabilities[index]:.1%}' for index in order], padding=3, fontsize=8)
    grid[0].set_xlim(0, 1.25)
    grid[0].set_title('probability', loc='left')
    grid[0].set_xticks([])
    grid[0].spines['bottom'].set_visible(False)
    grid[0].invert_yaxis()
    if split:
        _draw_contributions(grid[1], split)


def _draw_contributions(axes: Axes, split: dict[str, Contributions]) -> None:
    """Draw each sum as a stacked bar: positive terms to the right of zero, negative ones to the left."""
    names = [f'{name}\n{parts.total:+.2f}' for name, parts in split.items()]
    positive, negative = np.zeros(len(split)), np.zeros(len(split))
    for part, colour in PARTS.items():
        values = np.array([getattr(parts, 'conv' if part == 'convolution' else part) for parts in split.values()])
        starts = np.where(values < 0, negative, positive)
        axes.barh(names, values, left=starts, height=0.55, color=colour, label=part)
        positive, negative = positive + np.maximum(values, 0), negative + np.minimum(values, 0)
    axes.axvline(0, color='#111827', lw=0.8)
    axes.invert_yaxis()
    axes.use_sticky_edges = False  # else zero is the edge of the axes if all values are negative
    axes.margins(x=0.05)
    axes.set_title('contributions', loc='left')
    axes.legend(
        loc='upper right',
        bbox_to_anchor=(1.02, -0.16),
        ncols=3,
        frameon=False,
        fontsize=8,
        handlelength=1.0,
        columnspacing=1.0,
    )
