"""Tables: aligned for a terminal, or in Markdown."""

import re
from collections.abc import Collection, Iterable, Sequence

__all__ = ['as_list', 'escape', 'format_row', 'format_table', 'markdown_table']


def format_row(cells: Sequence[str], widths: Sequence[int], right: Collection[int] = ()) -> str:
    """Align the cells of a row.

    Args:
        cells: The cells.
        widths: Width of each.
        right: Which of them are aligned to the right.
    """
    aligned = [
        cell.rjust(width) if index in right else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return '  '.join(aligned).rstrip()


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Align a table whose columns are as wide as their widest cell.

    Args:
        header: The heads of the columns.
        rows: The cells, row by row.
        right: Columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return '\n'.join(format_row(row, widths, right) for row in (header, *rows))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """Write a table in Markdown.

    Args:
        header: The heads of the columns.
        rows: The cells, row by row.
        right: Columns that are aligned to the right.
    """
    rule = ['---:' if index in right else '---' for index in range(len(header))]
    return '\n'.join(f'| {" | ".join(row)} |' for row in (header, rule, *rows))


def escape(text: str) -> str:
    """Return plain text as a line of Markdown that shows it unchanged."""
    return re.sub(r'[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)', r'\\\g<0>', ' '.join(text.split()))


def as_list(statements: Iterable[str]) -> str:
    """Return statements of plain text as a Markdown list."""
    return '\n'.join(f'- {escape(statement)}' for statement in statements)
