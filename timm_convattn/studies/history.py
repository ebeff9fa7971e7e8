"""History of a folder: which studies were run there, on which crops and with which command. The report reads it."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from timm_convattn.data.crops import Classes
from timm_convattn.errors import InputError
from timm_convattn.files import write_text

__all__ = ['Entry', 'read_history', 'record_studies', 'write_history']


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One study on one data set."""

    command: str
    matrix: str
    """File of the matrix."""
    study: str
    source: str | None
    classes: Classes


def record_studies(out: Path, matrix: Path, studies: Sequence[tuple[str, Classes]], source: str | None) -> None:
    """Add the studies that the command of this process runs to the history of a folder, each once."""
    command = shlex.join(['python', 'train_scripts/reproduce.py', *sys.argv[1:]])
    known = read_history(out)
    entries = [Entry(command, str(matrix), study, source, classes) for study, classes in studies]
    new = [entry for entry in entries if entry not in known]
    write_history(out, [*known, *new])


def write_history(out: Path, entries: Sequence[Entry]) -> None:
    """Write the history of a folder."""
    write_text(_file(out), ''.join(json.dumps(msgspec.to_builtins(entry)) + '\n' for entry in entries))


def read_history(out: Path) -> list[Entry]:
    """Read the history of a folder; empty if there is none.

    Raises:
        InputError: If the file cannot be read.
    """
    path = _file(out)
    try:
        return msgspec.json.Decoder(Entry).decode_lines(path.read_bytes()) if path.is_file() else []
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f'{path} cannot be read ({error}). Remove it, and start the studies again.') from error


def _file(out: Path) -> Path:
    return out / 'history.jsonl'
