"""Tables and numbers as lines of text."""

from collections.abc import Sequence

__all__ = ['format_row', 'format_table', 'giga', 'millions', 'size']


def format_row(cells: Sequence[str], widths: Sequence[int], right: Sequence[int] = ()) -> str:
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


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Align a table whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return '\n'.join(format_row(row, widths, right) for row in (header, *rows))


def millions(count: int) -> str:
    """Write a number of parameters."""
    return f'{count / 1e6:,.1f} M'


def giga(count: int | None) -> str:
    """Write a number of multiply-accumulates; None stands for a size that a model does not take."""
    return '-' if count is None else f'{count / 1e9:,.2f}'


def size(height: int, width: int) -> str:
    """Write the size of an image or a map."""
    return f'{height} x {width}'
