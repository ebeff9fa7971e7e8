"""What is kept of runs as evidence: all but their weights, and nothing that names the machine they were made on."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from timm_convattn.errors import InputError
from timm_convattn.files import read_yaml, renewed_folder, write_json, write_text
from timm_convattn.studies.gathering import FinishedRun

__all__ = ['keep_evidence', 'without_places']

PREDICTIONS = ('validation.safetensors', 'held_out.safetensors')


def keep_evidence(runs: Sequence[FinishedRun], folder: Path) -> None:
    """Copy the options of runs, their results and what they say of each crop.

    Args:
        runs: The runs.
        folder: Where they get a folder each, whole or not at all.

    Raises:
        InputError: If the runs lie there themselves.
    """
    for run in runs:
        place = folder / run.run.name
        if place.resolve() == run.folder.resolve():
            raise InputError(f'{folder} holds the runs themselves. Give --results another folder to keep them in.')
        with renewed_folder(place) as beside:
            write_json(beside / 'results.json', without_places(run.record))
            if (run.folder / 'config.yaml').is_file():
                options = without_places(read_yaml(run.folder / 'config.yaml', 'the options of a run', ''))
                write_text(beside / 'config.yaml', yaml.safe_dump(options, sort_keys=False))
            for name in PREDICTIONS:
                if (run.folder / name).is_file():
                    shutil.copyfile(run.folder / name, beside / name)


def without_places(value: Any) -> Any:
    """Replace places on this machine by the last part of their names, in plain values of any depth.

    A place is an absolute path, or one that leads up; so `crops/four_class` and `hf-hub:owner/name` stay.
    """
    if isinstance(value, dict):
        return {key: _command(item) if key == 'command' else without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
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
