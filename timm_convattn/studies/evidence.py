"""What is kept of runs as evidence: all but their weights, and nothing that names the machine they were made on."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from timm_convattn.errors import InputError
from timm_convattn.files import read_yaml, renewed_folder, write_json, write_text
from timm_convattn.redact import strip_local_paths
from timm_convattn.studies.gathering import FinishedRun

__all__ = ['keep_evidence']

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
            write_json(beside / 'results.json', strip_local_paths(run.record))
            if (run.folder / 'config.yaml').is_file():
                options = strip_local_paths(read_yaml(run.folder / 'config.yaml', 'the options of a run', ''))
                write_text(beside / 'config.yaml', yaml.safe_dump(options, sort_keys=False))
            for name in PREDICTIONS:
                if (run.folder / name).is_file():
                    shutil.copyfile(run.folder / name, beside / name)
