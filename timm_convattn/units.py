"""Numbers and sizes as people write them."""

__all__ = ['giga', 'millions', 'size']


def millions(count: int) -> str:
    """Write a number of parameters."""
    return f'{count / 1e6:,.1f} M'


def giga(count: int | None) -> str:
    """Write a number of multiply-accumulates; None stands for a size that a model does not take."""
    return '-' if count is None else f'{count / 1e9:,.2f}'


def size(height: int, width: int) -> str:
    """Write the size of an image or a map."""
    return f'{height} x {width}'
