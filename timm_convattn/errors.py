"""The error that a person can mend by giving something else."""

__all__ = ['InputError']


class InputError(ValueError):
    """What was given cannot be used; the message says what was seen, what was wanted and what to do."""
