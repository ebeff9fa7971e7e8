"""Draw the stage of aresnet50_relmha (the paper's Fig. 4) into docs/stage.svg. Every number is read from the model.

python docs/draw_stage.py
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from timm_convattn import ConvAttn, ConvAttnStage
from timm_convattn.layers.conv_attn import Transition

MODEL = 'aresnet50_relmha'
FIGURE = Path(__file__).parent / 'stage.svg'
WIDTH, HEIGHT = 800, 544
BAR = 84  # height of the bar that represents all channels of a map

# colours of the light and the dark scheme: page, border, text, notes, lines; fill and stroke of each kind of box
LIGHT = ['#ffffff', '#d1d9e0', '#1f2328', '#59636e', '#818b98']
LIGHT_BOXES = {'conv': ['#ddebff', '#2f6fdb'], 'attn': ['#ffe6d1', '#d9660a'], 'both': ['#ece6ff', '#7547d6']}
DARK = ['#0d1117', '#3d444d', '#f0f6fc', '#a9b1ba', '#7d8590']
DARK_BOXES = {'conv': ['#122d55', '#5aa2ff'], 'attn': ['#45260a', '#f0904a'], 'both': ['#2b2051', '#a98bf5']}

Point = tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """The stage of the model, and the sizes of its maps."""

    module: ConvAttnStage
    """The stage, on the meta device."""
    sides: dict[int, list[int]]
    """By side of the image: sides of the map that enters the stage and of the output of each block."""

    @property
    def blocks(self) -> list[ConvAttn]:
        """The convolution-attention blocks, in order."""
        return [module for module in self.module if isinstance(module, ConvAttn)]

    def conv(self, name: str) -> nn.Conv2d:
        """Return a convolution of the first residual block."""
        found = self.blocks[0].conv.get_submodule(name)
        assert isinstance(found, nn.Conv2d)
        return found


def read_stage(**model_args: Any) -> Stage:
    """Build the model without data, and run images of two sizes through it."""
    model = timm.create_model(MODEL, device='meta', **model_args).eval()
    stage = Stage(model.layer4, {})
    for img_size in (224, 60):
        sides: list[int] = []
        hooks = [
            block.register_forward_hook(lambda _, args, y, sides=sides: note(args, y, sides)) for block in stage.blocks
        ]
        model(torch.empty(1, 3, img_size, img_size, device='meta'))
        for hook in hooks:
            hook.remove()
        stage.sides[img_size] = sides
    return stage


def note(args: tuple[torch.Tensor, ...], y: torch.Tensor, sides: list[int]) -> None:
    """Record the side of the first input and of each output."""
    sides += [args[0].shape[-1], y.shape[-1]] if not sides else [y.shape[-1]]


def text(x: float, y: float, content: str, kind: str = '', anchor: str = 'middle') -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{content}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, *lines: str) -> str:
    """Draw a box with centred lines: a name, and notes."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>'
    first = y + height / 2 + 4.5 - 8 * (len(lines) - 1)
    rows = [text(x + width / 2, first + 16 * i, line, 'note' if i else '') for i, line in enumerate(lines)]
    return '\n'.join([shape, *rows])


def arrow(*points: Point, kind: str = 'line', head: bool = True) -> str:
    """Draw straight lines from point to point, with rounded corners and a head."""
    path = f'M{points[0][0]:g} {points[0][1]:g}'
    for (x0, y0), (x, y), (x1, y1) in zip(points, points[1:], points[2:], strict=False):
        before, after = _towards((x, y), (x0, y0)), _towards((x, y), (x1, y1))
        path += f'L{before[0]:g} {before[1]:g}Q{x:g} {y:g} {after[0]:g} {after[1]:g}'
    path += f'L{points[-1][0]:g} {points[-1][1]:g}'
    end = ' marker-end="url(#head)"' if head else ''
    return f'<path d="{path}" class="{kind}"{end}/>'


def _towards(start: Point, end: Point, radius: float = 6) -> Point:
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    share = min(radius / length, 0.5)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def channels(x: float, y: float, block: ConvAttn, width: float = 14) -> str:
    """Draw the channels of the concatenated map as a bar, split in proportion to the two paths."""
    conv = BAR * block.dim_out / block.num_features
    upper = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{conv:g}" class="conv solid"/>'
    lower = f'<rect x="{x:g}" y="{y + conv:g}" width="{width:g}" height="{BAR - conv:g}" class="attn solid"/>'
    return f'{upper}\n{lower}'


def by(*sides: int, space: str = ' ') -> str:
    """Format a size, with multiplication signs."""
    return f'{space}\N{MULTIPLICATION SIGN}{space}'.join(map(str, sides))


def kernel_of(conv: nn.Conv2d) -> str:
    """Format the kernel of a convolution, and its stride if it is not 1."""
    return by(*conv.kernel_size, space='') + (f', stride {conv.stride[0]}' if conv.stride[0] > 1 else '')


def size_of_map(x: float, y: float, name: str, channels: int, side: int) -> list[str]:
    """Return the name of a map, and its size below."""
    first, rest = str(channels), by(channels, side, side).removeprefix(f'{channels} ')
    return [text(x, y - 8, name), text(x, y + 9, first, 'note'), text(x, y + 24, rest, 'note')]


def draw_overview(stage: Stage) -> list[str]:
    """Draw the stage from stage 3 to the classifier: blocks with transitions between them."""
    middle, first, width, gap = 134.0, 98.0, 138.0, 84.0
    sides = stage.sides[224]
    parts = [
        *size_of_map(50, middle, 'stage 3', stage.conv('conv1').in_channels, sides[0]),
        arrow((80, middle), (first - 1, middle), head=False),
    ]
    for index, (block, side) in enumerate(zip(stage.blocks, sides[1:], strict=True)):
        x = first + index * (width + gap)
        parts += draw_small_block(block, x, middle, width)
        parts.append(text(x + 1, middle - 68, f'block {index + 1}', 'strong', 'start'))
        parts.append(text(x + width - 1, middle - 68, by(block.num_features, side, side), 'note', 'end'))
    for index, block in enumerate(stage.blocks[:-1]):
        parts += draw_transition(stage.module[2 * index + 1], block.num_features, first + width + index * (width + gap))
    end = first + 3 * width + 2 * gap
    return [
        *parts,
        arrow((end, middle), (end + 22, middle)),
        text(end + 52, middle - 4, 'pool,'),
        text(end + 52, middle + 12, 'linear'),
    ]


def draw_transition(transition: Transition, num_features: int, x: float) -> list[str]:
    """Draw the transition, which reduces the channels to the residual block's width."""
    middle, conv = 134.0, transition.conv
    return [
        arrow((x, middle), (x + 13, middle)),
        box(x + 15, middle - 34, 54, 68, 'both', kernel_of(conv), f'{num_features}', f'→ {conv.out_channels}'),
        text(x + 42, middle - 42, 'transition', 'note'),
        text(x + 42, middle + 50, 'norm, ReLU', 'note'),
        arrow((x + 69, middle), (x + 83, middle), head=False),
    ]


def draw_small_block(block: ConvAttn, x: float, middle: float, width: float) -> list[str]:
    """Draw a block as its two paths and the bar of their channels."""
    bar, top = x + width - 40, middle - BAR / 2
    conv, attn = top + 18, top + BAR * (1 + block.dim_out / block.num_features) / 2
    return [
        f'<rect x="{x:g}" y="{middle - 60:g}" width="{width:g}" height="120" rx="8" class="panel"/>',
        arrow((x, middle), (x + 9, middle), (x + 9, conv), (x + 20, conv)),
        arrow((x + 9, middle), (x + 9, attn), (x + 20, attn)),
        box(x + 22, conv - 16, 62, 32, 'conv', 'residual'),
        box(x + 22, attn - 16, 62, 32, 'attn', 'attention'),
        arrow((x + 84, conv), (bar - 2, conv)),
        arrow((x + 84, attn), (bar - 2, attn)),
        channels(bar, top, block),
        box(bar + 16, top, 15, BAR, 'both'),
        f'<g transform="translate({bar + 27.5:g} {middle:g}) rotate(-90)">{text(0, 0, "norm", "note")}</g>',
        arrow((bar + 31, middle), (x + width, middle), head=False),
    ]


def draw_zoom(stage: Stage) -> list[str]:
    """Draw the details of the first block."""
    block, sides = stage.blocks[0], stage.sides[224]
    upper, lower, bar = 322.0, 440.0, 598.0
    middle = (upper + lower) / 2
    top, attn = middle - BAR / 2, middle + BAR / 2 * block.dim_out / block.num_features
    return [
        '<path d="M98 194L24 240M236 194L776 240" class="guide"/>',
        '<rect x="24" y="240" width="752" height="258" rx="10" class="panel"/>',
        text(42, 266, 'block 1', 'strong', 'start'),
        *size_of_map(66, middle, 'X', stage.conv('conv1').in_channels, sides[0]),
        arrow((98, middle), (114, middle), (114, upper), (138, upper)),
        arrow((114, middle), (114, lower), (138, lower)),
        *draw_residual(stage, upper),
        *draw_attention(stage, lower),
        arrow((534, upper), (560, upper), (560, middle - 8), (bar - 3, middle - 8)),
        arrow((534, lower), (560, lower), (560, attn), (bar - 3, attn)),
        channels(bar, top, block, 18),
        text(bar + 9, top - 9, 'concat', 'note'),
        text(bar + 9, top + BAR + 18, f'{block.dim_out} + {block.dim_attn}', 'note'),
        arrow((bar + 18, middle), (bar + 36, middle)),
        box(bar + 38, middle - 26, 60, 52, 'both'),
        text(bar + 68, middle - 3, 'batch'),
        text(bar + 68, middle + 13, 'norm'),
        arrow((bar + 98, middle), (bar + 114, middle)),
        *size_of_map(bar + 144, middle, 'Y', block.num_features, sides[1]),
    ]


def draw_residual(stage: Stage, y: float) -> list[str]:
    """Draw the residual block: its convolutions and its shortcut."""
    parts = []
    for index, name in enumerate(('conv1', 'conv2', 'conv3')):
        conv, x = stage.conv(name), 140 + 116.0 * index
        parts.append(box(x, y - 22, 94, 44, 'conv', kernel_of(conv), f'{conv.out_channels}'))
        parts.append(arrow((x + 94, y), (x + (114 if index < 2 else 130), y)))
    shortcut, plus = stage.conv('downsample.0'), 512.0
    return [
        *parts,
        arrow((124, y), (124, y - 42), (plus, y - 42), (plus, y - 11)),
        f'<rect x="256" y="{y - 54:g}" width="94" height="24" rx="6" class="conv"/>',
        text(303, y - 37.5, kernel_of(shortcut)),
        f'<circle cx="{plus:g}" cy="{y:g}" r="9" class="conv"/>',
        text(plus, y + 5, '+'),
        arrow((plus + 9, y), (534, y), head=False),
        text(plus, y + 25, 'ReLU', 'note'),
        text(140, y + 40, 'residual block of the backbone, unchanged', 'note', 'start'),
    ]


def draw_attention(stage: Stage, y: float) -> list[str]:
    """Draw the attention: projections, formula, output projection, pool."""
    attn, pool = stage.blocks[0].attn, stage.blocks[0].pool
    assert isinstance(pool, nn.AvgPool2d)
    wide, value, heads = attn.dim_qk, attn.dim_out, attn.num_heads
    logits = '<tspan class="it">q·k + q·r</tspan>ᵂ + <tspan class="it">q·r</tspan>ᴴ'
    return [
        box(140, y - 30, 66, 60, 'attn', kernel_of(attn.qkv), f'q, k {wide}', f'v {value}'),
        arrow((206, y), (218, y)),
        box(220, y - 30, 172, 60, 'attn'),
        text(306, y - 11, logits),
        text(306, y + 6, f'softmax( · / √{attn.dim_head} ) <tspan class="it">v</tspan>'),
        text(306, y + 22, f'{heads} heads, {stage.sides[224][0] ** 2} positions', 'note'),
        arrow((392, y), (404, y)),
        box(406, y - 30, 48, 60, 'attn', kernel_of(attn.proj), f'{value}'),
        arrow((454, y), (466, y)),
        box(
            468,
            y - 30,
            66,
            60,
            'attn',
            'avg pool',
            by(pool.kernel_size, pool.kernel_size, space=''),
            f'stride {pool.stride}',
        ),
        text(140, y + 48, 'relative multi-head attention, r are learned tables', 'note', 'start'),
    ]


def style() -> str:
    """Return the style sheet, with a dark colour scheme."""

    def rules(page: list[str], boxes: dict[str, list[str]]) -> str:
        card, border, ink, note, line = page
        kinds = [
            f'.{kind}{{fill:{fill};stroke:{edge}}}.{kind}.solid{{fill:{edge}}}' for kind, (fill, edge) in boxes.items()
        ]
        return (
            f'.card{{fill:{card};stroke:{border}}}.panel{{fill:none;stroke:{border}}}text{{fill:{ink}}}.note{{fill:{note}}}'
            f'.line,.guide{{stroke:{line}}}.head{{fill:{line}}}{"".join(kinds)}'
        )

    fonts = '-apple-system,BlinkMacSystemFont,"Segoe UI","Noto Sans",Helvetica,Arial,sans-serif'
    return (
        f'<style>text{{font:13px {fonts}}}.note{{font-size:12px}}.strong{{font-weight:600}}.it{{font-style:italic}}'
        '.line,.guide{fill:none;stroke-width:1.4}.guide{stroke-dasharray:3 4}.panel,.card,rect,circle{stroke-width:1.2}'
        f'{rules(LIGHT, LIGHT_BOXES)}@media(prefers-color-scheme:dark){{{rules(DARK, DARK_BOXES)}}}</style>'
    )


def draw(stage: Stage) -> str:
    """Return the figure as SVG."""
    small = stage.sides[60]
    caption = (
        'Maps of an image of 224 pixels; of one of 60 they are '
        f'{by(small[0], small[0])} and {by(small[1], small[1])}. Blocks 2 and 3 have stride 1 and no pool.'
    )
    title = f'Stage 4 of {MODEL}'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
        f'<title>{title}</title>',
        style(),
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 1L7 4L0 7z" class="head"/></marker></defs>',
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="12" class="card"/>',
        text(24, 34, title, 'strong', 'start'),
        *draw_overview(stage),
        *draw_zoom(stage),
        text(24, HEIGHT - 18, caption, 'note', 'start'),
        '</svg>',
    ]
    return '\n'.join(parts) + '\n'


if __name__ == '__main__':
    FIGURE.write_text(draw(read_stage()), encoding='utf-8')
