"""A report as one HTML file that needs nothing beside it, and as Markdown with its pictures in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from timm_convattn.files import renewed_folder, write_bytes, write_text
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.figures import Picture
from timm_convattn.studies.sections import Section
from timm_convattn.studies.tables import Table, as_list, as_markdown

__all__ = ['Chapter', 'Report', 'write_html', 'write_markdown']


@dataclass(frozen=True)
class Chapter:
    """What was found on one data set."""

    data: StudyData
    sections: Sequence[Section]


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    scales: dict[str, str]
    """Scale -> what it means."""
    commands: Sequence[str]
    """What made it."""
    environment: dict[str, Any]
    """Hardware, versions, dates, commits and seeds of the runs."""
    chapters: Sequence[Chapter]


def write_html(report: Report, path: Path) -> None:
    """Write the report as one file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('timm_convattn.studies', ''), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests['picture'] = lambda block: isinstance(block, Picture)
    write_text(path, environment.get_template('report.html.jinja').render(report=report))


def write_markdown(report: Report, path: Path) -> None:
    """Write the report as Markdown; its pictures take the place of those of an earlier one, in a folder beside it."""
    lines = ['# Studies', *(f'Scale {scale}: {about}' for scale, about in report.scales.items())]
    lines += ['```bash\n' + '\n'.join(report.commands) + '\n```', *_environment_lines(report.environment)]
    folder, pictures = path.with_name(f'{path.stem}_pictures'), dict[str, Picture]()
    for number, chapter in enumerate(report.chapters, start=1):
        lines.append(f'## {chapter.data.title}')
        for section in chapter.sections:
            lines += [f'### {section.title}', *([section.text] if section.text else [])]
            lines += [as_list(section.statements)] if section.statements else []
            for index, block in enumerate(section.blocks):
                if isinstance(block, Table):
                    lines.append(as_markdown(block))
                    continue
                name = f'{number}_{section.anchor}_{index}.{block.ending}'
                pictures[name] = block
                lines.append(f'![{block.caption}]({folder.name}/{name})')
    with renewed_folder(folder) as beside:
        beside.mkdir()
        for name, picture in pictures.items():
            write_bytes(beside / name, picture.content)
    write_text(path, '\n\n'.join(lines) + '\n')


def _environment_lines(environment: dict[str, Any]) -> list[str]:
    return [f'- {key}: {value}' for key, value in environment.items()]
