"""A report, written once as Markdown; the HTML is rendered from that and embeds its figures."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from markdown_it import MarkdownIt

from timm_convattn.files import replace_folder, write_bytes, write_text
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.figures import EncodedFigure
from timm_convattn.studies.tables import LEGEND, Table, as_markdown
from timm_convattn.tables import as_list, escape

__all__ = ['Chapter', 'Report', 'Section', 'write_pages']

FIGURES = 'report_figures'
TITLE = 'Relative multi-head attention and convolutions on thermal crops'
ABOUT = (
    'Results of the fine-tuning runs, alongside what the paper reports. Differences are tested over seeds and over '
    'frames; where none is significant, the minimum detectable difference is stated.'
)


@dataclass(frozen=True)
class Section:
    """Part of a report. Its texts are plain, not Markdown."""

    title: str
    text: str = ''
    statements: Sequence[str] = ()
    """What was found, a sentence each."""
    blocks: Sequence[Table | EncodedFigure] = ()


@dataclass(frozen=True)
class Chapter:
    """What was found on one data set."""

    data: StudyData
    sections: Sequence[Section]


@dataclass(frozen=True)
class Report:
    """All findings."""

    scales: Mapping[str, str]
    """Scale -> what it means."""
    commands: Sequence[str]
    """The commands that made it."""
    environment: Mapping[str, str]
    """Hardware, versions, dates, commits and seeds of the runs."""
    chapters: Sequence[Chapter]


def write_pages(report: Report, folder: Path) -> list[Path]:
    """Write `report.html` and `report.md` into a folder, and the figures of the latter into `report_figures`."""
    markdown, figures = _as_markdown(report)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder / FIGURES) as renewed:
        renewed.mkdir()
        for path, figure in figures.items():
            write_bytes(renewed / Path(path).name, figure.content)
    pages = {'report.html': _as_html(markdown, figures), 'report.md': markdown}
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / name for name in pages]


def _as_markdown(report: Report) -> tuple[str, dict[str, EncodedFigure]]:
    """Return the report as Markdown, and its figures by relative path."""
    slug = _Slugs()
    contents, body = [f'## {slug("At a glance")[0]}'], list[str]()
    figures: dict[str, EncodedFigure] = {}
    for chapter in report.chapters:
        title, _ = slug(chapter.data.title)
        names = escape(', '.join(chapter.data.class_names))
        body += [f'## {title}', f'Classes: {names}. Hash of the crops: {chapter.data.sha256[:16]}.']
        links = list[str]()
        for section in chapter.sections:
            title_of_section, anchor = slug(section.title)
            links.append(f'- [{title_of_section}](#{anchor})')
            links += [f'  {line}' for line in as_list(section.statements).splitlines()]
            body += _section(section, anchor, figures)
        contents += [f'**{title}**', '\n'.join(links)]
    scales = [f'> **Scale {escape(name)}.** {escape(about)}' for name, about in report.scales.items()]
    commands = '```bash\n' + '\n'.join(report.commands) + '\n```'
    environment = as_list(f'{key}: {value}' for key, value in report.environment.items())
    made = ['## How this was made', commands, environment]
    return '\n\n'.join([f'# {TITLE}', *scales, ABOUT, *contents, LEGEND, *body, *made]) + '\n', figures


def _section(section: Section, anchor: str, figures: dict[str, EncodedFigure]) -> Iterator[str]:
    yield f'### {escape(section.title)}'
    if section.text:
        yield escape(section.text)
    if section.statements:
        yield as_list(section.statements)
    for index, block in enumerate(section.blocks):
        if isinstance(block, Table):
            yield as_markdown(block)
            continue
        path = f'{FIGURES}/{anchor}-{index}.{block.suffix}'
        figures[path] = block
        yield f'![{escape(block.caption)}]({path})'
        yield f'*{escape(block.caption)}*'


class _Slugs:
    """Anchors of headings as GitHub makes them."""

    def __init__(self) -> None:
        self.used = Counter[str]()

    def __call__(self, title: str) -> tuple[str, str]:
        slug = re.sub(r'[^\w -]', '', escape(title).lower()).strip().replace(' ', '-')
        self.used[slug] += 1
        times = self.used[slug] - 1
        return escape(title), f'{slug}-{times}' if times else slug


def _as_html(markdown: str, figures: Mapping[str, EncodedFigure]) -> str:
    """Return a page that needs no other file: a section for each heading, and figures embedded."""
    parser = MarkdownIt('commonmark', {'html': False}).enable('table')  # raw HTML is shown as text
    parser.add_render_rule('table_open', lambda *_: '<div class="scroll"><table>')
    parser.add_render_rule('table_close', lambda *_: '</table></div>')
    slug, tokens = _Slugs(), parser.parse(markdown)
    starts = [index for index, token in enumerate(tokens) if token.type == 'heading_open' and token.tag != 'h1']
    for image in (child for token in tokens for child in token.children or [] if child.type == 'image'):
        image.attrs['src'] = figures[str(image.attrs['src'])].uri
    parts = [parser.renderer.render(tokens[: starts[0]], parser.options, {})]
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        _, anchor = slug(tokens[start + 1].content)
        content = parser.renderer.render(tokens[start:end], parser.options, {})
        parts.append(f'<section class="{tokens[start].tag}" id="{anchor}">\n{content}</section>\n')
    frame = resources.files(__package__).joinpath('report.html').read_text()
    return frame.replace('BODY', ''.join(parts))
