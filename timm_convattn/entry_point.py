"""Exit of the scripts and the command line: one line for invalid input, and no garbage collection."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from timm_convattn.errors import InputError

__all__ = ['entry_point']


@contextmanager
def entry_point() -> Iterator[None]:
    """Print an `InputError` as one line on standard error and exit with status 1.

    At exit the interpreter would collect all objects once more, which takes a second after torch and timm were imported
    and frees nothing that the system does not: `gc.freeze` prevents it.
    """
    atexit.register(gc.freeze)
    try:
        yield
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(1) from None
