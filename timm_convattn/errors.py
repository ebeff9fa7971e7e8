"""The error for invalid input that a user can fix."""

__all__ = ['InputError']


class InputError(ValueError):
    """Invalid input; the message states what was seen, what was wanted and what to do."""
