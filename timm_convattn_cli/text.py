"""Tables, counts and sizes as text."""

from collections.abc import Collection, Iterable, Sequence

from tabulate import tabulate

__all__ = ['format_table', 'giga', 'millions', 'size']


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return an aligned table; the columns with an index in `right` are aligned to the right."""
    align = ['right' if index in right else 'left' for index in range(len(header))]
    return tabulate([header, *rows], tablefmt='plain', colalign=align, disable_numparse=True)


def millions(count: int) -> str:
    """Return a number of parameters as text."""
    return f'{count / 1e6:,.1f} M'


def giga(count: int | None) -> str:
    """Return a number of multiply-accumulates as text; None is a size that a model does not accept."""
    return '-' if count is None else f'{count / 1e9:,.2f}'


def size(height: int, width: int) -> str:
    """Return the size of an image or a map as text."""
    return f'{height} x {width}'
