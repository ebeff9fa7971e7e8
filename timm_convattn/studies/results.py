"""Results files of runs: read, and held against the run that they should tell of."""

import json
import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

from timm_convattn.config import Trait, build_config, flat, options_with
from timm_convattn.errors import InputError
from timm_convattn.predictions import Predictions
from timm_convattn.studies.matrix import Run
from timm_convattn.training.evaluation import score

__all__ = ['RunFolders', 'Runs', 'Split', 'check_metrics', 'read_results']

NUMBER = (int, float)

# what a report reads of a results file, and of which types it may be
READ = {
    'model.architecture': (str,),
    'model.parameters': (int,),
    'data.source': (str,),
    'data.split': (str,),
    'data.sha256': (str,),
    'data.class_names': (list,),
    'metrics.accuracy': NUMBER,
    'metrics.macro_f1': NUMBER,
    'metrics.weighted_f1': NUMBER,
    'metrics.loss': NUMBER,
    'metrics.per_class': (dict,),
    'metrics.confusion_matrix': (list,),
    'environment.date': (str,),
    'environment.commit': (str, type(None)),
    'environment.versions': (dict,),
    'environment.hardware.processes': (int,),
    'environment.hardware.threads': (int,),
    'environment.hardware.cpu': (str,),
    'environment.hardware.gpus': (list,),
    'training.config': (dict,),
    'training.epochs': (int,),
    'training.seconds': NUMBER,
}
WORDS = {int: 'a whole number', float: 'a number', str: 'a text', list: 'a list', dict: 'a mapping', type(None): 'null'}


Split = Literal['validation', 'held_out']


class Runs(Protocol):
    """Finished runs, wherever they are stored, by their names."""

    @property
    def folder(self) -> Path:
        """Where they are stored."""

    def results_path(self, name: str) -> Path:
        """Return the file that holds the results of a run."""

    def read_results(self, name: str) -> Any:
        """Return the content of the results file of a run; None where the run is not finished."""

    def run_folder(self, name: str) -> Path:
        """Return where a run is stored."""

    def read_predictions(self, name: str, split: Split) -> Predictions:
        """Return the logits of a run.

        Raises:
            InputError: If there are none.
        """

    def remedy(self, name: str) -> str:
        """Return what to do about a run that cannot be used."""


@dataclass(frozen=True)
class RunFolders:
    """Runs as finetune.py leaves them, a folder each."""

    folder: Path

    def results_path(self, name: str) -> Path:
        """Return the file that holds the results of a run."""
        return self.folder / name / 'results.json'

    def read_results(self, name: str) -> Any:
        """Return the content of the results file of a run; None where the run is not finished."""
        path = self.results_path(name)
        return json.loads(path.read_text()) if path.is_file() else None

    def run_folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.folder / name

    def read_predictions(self, name: str, split: Split) -> Predictions:
        """Return the logits of a run.

        Raises:
            InputError: If there are none.
        """
        return Predictions.load(self.folder / name / f'{split}.safetensors')

    def remedy(self, name: str) -> str:
        """Return what to do about a run that cannot be used."""
        return f'Remove {self.folder / name} to repeat the run.'


def read_results(run: Run, runs: Runs) -> dict[str, Any] | None:
    """Read the results of a run, None where it is not finished.

    Raises:
        InputError: If they cannot be read or lack something, or are of another validation split than the run's, or of
            other options.
    """
    path, remedy = runs.results_path(run.name), runs.remedy(run.name)
    try:
        record = runs.read_results(run.name)
        if record is None and not (path.is_file() and path.name == 'results.json'):
            return None
        reason = next(_defects(record), None)
    except (OSError, ValueError, RecursionError) as error:
        reason = f'{type(error).__name__}: {error}'
    if reason is not None:
        raise InputError(f'{path} cannot be read as results ({reason}). {remedy}')
    found: dict[str, Any] = record
    sha256, wanted = found['data']['sha256'], run.data.validation_sha256
    if sha256 != wanted or found['data']['class_names'] != list(run.data.class_names):
        raise InputError(f'{path} was measured on other crops ({sha256[:12]}) than the study ({wanted[:12]}). {remedy}')
    differing = list(_differing_options(found, run))
    if differing:
        raise InputError(f'{path} is of a run with other options: {", ".join(differing)}. {remedy}')
    return found


def _defects(record: Any) -> Iterator[str]:
    """Say what is missing or of a wrong type."""
    for key, kinds in READ.items():
        value = record
        for part in key.split('.'):
            if not isinstance(value, dict) or part not in value:
                yield f'it has no {key}'
                break
            value = value[part]
        else:
            if type(value) not in kinds or (type(value) is float and not math.isfinite(value)):
                words = ' or '.join(WORDS[kind] for kind in kinds if kind is not int or float not in kinds)
                yield f'{key} is {reprlib.repr(value)}, wanted {words}'
    if not all(isinstance(gpu, str) for gpu in record['environment']['hardware']['gpus']):
        yield 'environment.hardware.gpus holds other things than names'


def _differing_options(record: dict[str, Any], run: Run) -> Iterator[str]:
    """Say which of the options that the study gives, its seed and its start, the run was not made with."""
    recorded, processes = dict(record['training']['config']), record['environment']['hardware']['processes']
    if type(recorded.get('batch_size')) is int:
        recorded['batch_size'] *= processes  # which share a batch
    wanted = flat(build_config(run.options, run.name))
    neutral = options_with(Trait.NEUTRAL)
    for key in (*run.options, 'seed'):
        value = run.seed if key == 'seed' else wanted[key]
        if key not in neutral and recorded.get(key) != value:
            yield f'{key} {reprlib.repr(recorded.get(key))} instead of {reprlib.repr(value)}'
    given, start = recorded.get('init_from'), None if run.start is None else run.start.name
    if not _starts_from(given, start):
        yield f'init_from {reprlib.repr(given)} instead of {f"the weights of {start}" if start else None}'


def _starts_from(given: Any, start: str | None) -> bool:
    """Whether recorded weights to start from are those of a run; kept evidence may no longer say where they lay."""
    if given is None or start is None:
        return given is start
    place = PurePath(str(given)).parent  # of `local-dir:RUNS/NAME/model`, or of `local-dir:model`
    return place.name in (start, '')


def check_metrics(record: dict[str, Any], predictions: Predictions, name: str, runs: Runs) -> None:
    """Compare the metrics of a run's results with those of its logits.

    Raises:
        InputError: Naming a metric that differs.
    """
    for key, value in score(predictions).items():
        stated = record['metrics'].get(key)
        if not _agree(stated, value):
            raise InputError(
                f'{runs.results_path(name)} of {name}: its results say {key} {reprlib.repr(stated)}, its logits '
                f'{reprlib.repr(value)}. {runs.remedy(name)}'
            )


def _agree(said: Any, found: Any) -> bool:
    """Whether two plain values are the same but for the last digits of their numbers."""
    if isinstance(found, dict) and isinstance(said, dict):
        return said.keys() == found.keys() and all(_agree(said[key], value) for key, value in found.items())
    if isinstance(found, list) and isinstance(said, list):
        return len(said) == len(found) and all(map(_agree, said, found))
    if isinstance(found, float) and type(said) in NUMBER:
        return math.isclose(said, found, rel_tol=1e-6, abs_tol=1e-9)
    return type(said) is type(found) and bool(said == found)
