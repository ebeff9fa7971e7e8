"""Which studies were made in a folder, on what and by which command: what a report needs to find them again."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from timm_convattn.data.crops import Classes
from timm_convattn.errors import InputError
from timm_convattn.files import write_text

__all__ = ['Entry', 'note', 'read_history']


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
    write_text(_file(out), ''.join(json.dumps(asdict(entry)) + '\n' for entry in [*known, *new]))


def read_history(out: Path) -> list[Entry]:
    """Read what was noted, in its order; nothing where nothing was.

    Raises:
        InputError: If the file cannot be read.
    """
    if not _file(out).is_file():
        return []
    try:
        return [Entry(**cast(dict[str, str], json.loads(line))) for line in _file(out).read_text().splitlines()]  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f'{_file(out)} cannot be read ({error}). Remove it, and name the studies again.') from error


def _file(out: Path) -> Path:
    return out / 'history.jsonl'
