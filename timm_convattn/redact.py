"""What is shown to others names no place on the machine that it was made on."""

import re
import shlex
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ['strip_local_paths']


def strip_local_paths(value: Any) -> Any:
    """Replace places on this machine by the last part of their names, in plain values of any depth.

    A place is an absolute path, or one that leads up; so `crops/four_class` and `hf-hub:owner/name` stay.
    """
    if isinstance(value, dict):
        return {key: _command(item) if key == 'command' else strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strip_local_paths(item) for item in value]
    return _nameless(value) if isinstance(value, str) else value


def _command(value: Any) -> Any:
    """Replace the places in a command line, word by word; one that cannot be taken apart says nothing."""
    try:
        return shlex.join(_nameless(word) for word in shlex.split(value))
    except (ValueError, AttributeError):
        return None


def _nameless(text: str) -> str:
    """Shorten a text that is a place, whether or not it stands behind `--option=` or `local-dir:`."""
    if PureWindowsPath(text).is_absolute() and not PurePosixPath(text).is_absolute():
        return PureWindowsPath(text).name
    before, place = re.fullmatch(r'(--?[\w-]+=|[\w-]+:|)(.*)', text, re.DOTALL).groups()  # type: ignore[union-attr]
    path = PurePosixPath(place)
    is_place = path.is_absolute() or '..' in path.parts or place.startswith('~')
    return before + path.name if is_place else text
