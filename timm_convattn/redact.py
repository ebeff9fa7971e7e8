"""Removal of this machine's paths from what is published."""

import re
import shlex
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ['strip_local_paths']


def strip_local_paths(value: Any) -> Any:
    """Replace absolute paths, and relative ones with `~` or `..`, by their last part, in plain values of any depth.

    `crops/four_class` and `hf-hub:owner/name` are unchanged.
    """
    if isinstance(value, dict):
        return {key: _command(item) if key == 'command' else strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strip_local_paths(item) for item in value]
    return _shorten(value) if isinstance(value, str) else value


def _command(value: Any) -> Any:
    """Shorten the paths in a command line; None if it cannot be split into words."""
    try:
        return shlex.join(_shorten(word) for word in shlex.split(value))
    except (ValueError, AttributeError):
        return None


def _shorten(text: str) -> str:
    """Shorten a path, also after `--option=` or `local-dir:`; return other texts unchanged."""
    if PureWindowsPath(text).is_absolute() and not PurePosixPath(text).is_absolute():
        return PureWindowsPath(text).name
    prefix, rest = re.fullmatch(r'(--?[\w-]+=|[\w-]+:|)(.*)', text, re.DOTALL).groups()  # type: ignore[union-attr]
    path = PurePosixPath(rest)
    is_local = path.is_absolute() or '..' in path.parts or rest.startswith('~')
    return prefix + path.name if is_local else text
