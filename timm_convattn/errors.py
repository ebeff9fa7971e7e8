"""The error that a person can mend by giving something else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ['InputError', 'exit_on_input_error']


class InputError(ValueError):
    """What was given cannot be used; the message says what was seen, what was wanted and what to do."""


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turn an `InputError` into one line on standard error and exit status 1, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(1) from None
