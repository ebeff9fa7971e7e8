"""What every program of this project does around its work."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from timm_convattn.errors import InputError

__all__ = ['entry_point']


@contextmanager
def entry_point() -> Iterator[None]:
    """Run the work of a program: an `InputError` is one line on standard error and exit status 1, and its end is quick.

    The interpreter looks through all objects once more when it ends, which takes a second after torch, timm and their
    like were imported and frees nothing that the system does not.
    """
    atexit.register(gc.freeze)
    try:
        yield
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(1) from None
