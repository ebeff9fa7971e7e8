"""Which studies were made in a folder, on what and by which command: what a report needs to find them again."""

import json
import reprlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timm_convattn.data.crops import CLASSES, Classes
from timm_convattn.errors import InputError
from timm_convattn.files import write_text

__all__ = ['Entry', 'note', 'read_history', 'write_history']


@dataclass(frozen=True)
class Entry:
    """One study on one data set."""

    command: str
    matrix: str
    """The file of the matrix."""
    study: str
    source: str | None
    classes: Classes


def note(out: Path, matrix: Path, studies: Sequence[tuple[str, Classes]], source: str | None) -> None:
    """Note that the command of this process makes studies in a folder; each is noted once."""
    command = shlex.join(['python', 'train_scripts/reproduce.py', *sys.argv[1:]])
    known = read_history(out)
    entries = [Entry(command, str(matrix), study, source, classes) for study, classes in studies]
    new = [entry for entry in entries if entry not in known]
    write_history(out, [*known, *new])


def write_history(out: Path, entries: Sequence[Entry]) -> None:
    """Write which studies were made in a folder."""
    write_text(_file(out), ''.join(json.dumps(asdict(entry)) + '\n' for entry in entries))


def read_history(out: Path) -> list[Entry]:
    """Read what was noted, in its order; nothing where nothing was.

    Raises:
        InputError: If the file cannot be read.
    """
    if not _file(out).is_file():
        return []
    try:
        return [_entry(json.loads(line)) for line in _file(out).read_text().splitlines()]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f'{_file(out)} cannot be read ({error}). Remove it, and name the studies again.') from error


def _entry(content: Any) -> Entry:
    entry = Entry(**content)
    texts = (entry.command, entry.matrix, entry.study, *([] if entry.source is None else [entry.source]))
    if not all(isinstance(text, str) for text in texts) or entry.classes not in list(CLASSES):
        raise ValueError(f'{reprlib.repr(content)} is no study of {" or ".join(CLASSES)} crops')
    return entry


def _file(out: Path) -> Path:
    return out / 'history.jsonl'
