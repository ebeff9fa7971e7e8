"""Tables of text: aligned for a terminal, or in Markdown."""

import re
from collections.abc import Collection, Iterable, Sequence

from tabulate import tabulate

__all__ = ['as_list', 'escape', 'format_table', 'markdown_table']


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return a table for a terminal; the columns with an index in `right` are aligned to the right."""
    align = ['right' if index in right else 'left' for index in range(len(header))]
    return tabulate([header, *rows], tablefmt='plain', colalign=align, disable_numparse=True)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return a table in Markdown; the columns with an index in `right` are aligned to the right."""
    rule = ['---:' if index in right else '---' for index in range(len(header))]
    return '\n'.join(f'| {" | ".join(row)} |' for row in (header, rule, *rows))


def escape(text: str) -> str:
    """Return plain text as a line of Markdown that shows it unchanged."""
    return re.sub(r'[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)', r'\\\g<0>', ' '.join(text.split()))


def as_list(statements: Iterable[str]) -> str:
    """Return statements of plain text as a Markdown list."""
    return '\n'.join(f'- {escape(statement)}' for statement in statements)
