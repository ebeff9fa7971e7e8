"""Finished runs of a study, read and checked: a run that does not match the study is listed as a problem, not used."""

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from timm_convattn.config import Trait, build_config, flat, options_with
from timm_convattn.errors import InputError
from timm_convattn.model_source import ModelSource
from timm_convattn.predictions import Predictions
from timm_convattn.results import Difference, Metrics, RunResults, TrainingSummary, read_results
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.matrix import Matrix, Run, Study
from timm_convattn.studies.statistics import adjust, compare, counts_by_frame
from timm_convattn.training.evaluation import score

__all__ = ['Findings', 'FinishedRun', 'Runs', 'Split', 'gather', 'read_run', 'run_folders']

Split = Literal['validation', 'held_out']


@dataclass(frozen=True)
class Runs:
    """Access to finished runs by name, however they are stored."""

    folder: Path
    read_results: Callable[[str], RunResults | None]
    """Returns the results of a run, None if it is not finished."""
    read_predictions: Callable[[str, Split], Predictions]
    remedy: Callable[[str], str]
    """Returns what to do about a run that cannot be used."""


def run_folders(folder: Path) -> Runs:
    """Return the runs in a folder, where finetune.py has written them."""

    def read_run_results(name: str) -> RunResults | None:
        path = folder / name / 'results.json'
        return read_results(path, RunResults) if path.is_file() else None

    def read_predictions(name: str, split: Split) -> Predictions:
        return Predictions.load(folder / name / f'{split}.safetensors')

    return Runs(folder, read_run_results, read_predictions, lambda name: f'Remove {folder / name} to repeat the run.')


@dataclass(frozen=True)
class FinishedRun:
    """A finished run that matches its study."""

    run: Run
    folder: Path
    results: RunResults
    training: TrainingSummary
    predictions: Predictions
    """On the validation split."""
    held_out: Predictions | None
    """On the held-out training crops, if there are any."""


@dataclass(frozen=True)
class Findings:
    """Finished runs of a study on one data set."""

    study: Study
    data: StudyData
    frames: npt.NDArray[np.int64]
    """(N,) index of the frame of each crop of the validation split."""
    arms: Mapping[str, list[FinishedRun]]
    """Arm -> its finished runs, by seed."""
    folder: Path
    """Folder of all runs."""
    unfinished: int
    problems: list[str] = field(default_factory=list)
    """Runs that cannot be used, and why."""

    @property
    def runs(self) -> list[FinishedRun]:
        """All finished runs."""
        return [run for runs in self.arms.values() for run in runs]

    def scores(self, arm: str, score: str | None = None) -> list[float]:
        """Return a score of each finished run of an arm; the study's score by default."""
        return [getattr(run.results.metrics, score or self.study.score) for run in self.arms[arm]]

    def differences(self) -> dict[str, Difference]:
        """Compare each arm with its counterpart, adjusted for the number of comparisons."""
        pairs = {name: arm.against for name, arm in self.study.arms.items() if arm.against is not None}
        found = {name: self._difference(name, against) for name, against in pairs.items()}
        return adjust({name: difference for name, difference in found.items() if difference is not None})

    def _difference(self, arm: str, other: str) -> Difference | None:
        """Compare two arms over the seeds that both have; None if there are none."""
        ours, theirs = ({run.run.seed: self._counts(run) for run in self.arms[name]} for name in (arm, other))
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            return None
        return compare([ours[seed] for seed in shared], [theirs[seed] for seed in shared], self.study.score)

    def _counts(self, run: FinishedRun) -> npt.NDArray[np.int64]:
        predictions = run.predictions
        num_classes = len(predictions.class_names)
        return counts_by_frame(predictions.predicted, predictions.labels, self.frames, num_classes)


def gather(matrix: Matrix, study: str, data: StudyData, runs: Runs) -> Findings:
    """Read the finished runs of a study.

    Args:
        matrix: All studies.
        study: Name of the study.
        data: The crops.
        runs: All runs.
    """
    labels, frames = data.validation_labels_and_frames()
    arms: dict[str, list[FinishedRun]] = {}
    unfinished, problems = 0, []
    for arm in matrix.study(study).arms:
        arms[arm] = []
        for run in matrix.runs(study, arm, data):
            try:
                finished = read_run(run, runs, labels)
            except InputError as error:
                problems.append(f'{run.name}: {error} {runs.remedy(run.name)}')
                continue
            unfinished += finished is None
            arms[arm] += [] if finished is None else [finished]
    return Findings(matrix.study(study), data, frames, arms, runs.folder, unfinished, problems)


def read_run(run: Run, runs: Runs, labels: npt.NDArray[np.int64]) -> FinishedRun | None:
    """Read a run, None if it is not finished.

    Args:
        run: The run of a study.
        runs: All runs.
        labels: (N,) labels of the validation split.

    Raises:
        InputError: If its files cannot be read, do not match each other, or are those of another run or other crops.
    """
    results = runs.read_results(run.name)
    if results is None:
        return None
    training, sha256, expected = results.training, results.data.sha256, run.data.validation_sha256
    if training is None:
        raise InputError('its results have no training.')
    if sha256 != expected or results.data.class_names != list(run.data.class_names):
        raise InputError(f'its results were measured on other crops ({sha256[:12]}) than the study ({expected[:12]}).')
    differing = list(_differing_options(training.config, results.environment.hardware.processes, run))
    if differing:
        raise InputError(f'it has other options than the study: {", ".join(differing)}.')
    predictions = _read_predictions(run, runs, 'validation')
    if not np.array_equal(predictions.labels, labels):
        raise InputError('its logits are of other crops than its results.')
    _check_metrics(results.metrics, predictions)
    held_out = _read_predictions(run, runs, 'held_out') if run.options.get('hold_out') else None
    return FinishedRun(run, runs.folder / run.name, results, training, predictions, held_out)


def _differing_options(config: Mapping[str, Any], processes: int, run: Run) -> Iterator[str]:
    """Yield each difference between the options, seed and initial weights of the study and those of the run."""
    recorded = dict(config)
    if type(recorded.get('batch_size')) is int:
        recorded['batch_size'] *= processes  # which share a batch
    expected = {**flat(build_config(run.options, run.name)), 'seed': run.seed}
    neutral = options_with(Trait.NEUTRAL)
    for key in (*run.options, 'seed'):
        if key not in neutral and recorded.get(key) != expected[key]:
            yield f'{key} {reprlib.repr(recorded.get(key))} instead of {reprlib.repr(expected[key])}'
    weights, start = recorded.get('init_from'), None if run.start is None else run.start.name
    if not _starts_from(weights, start):
        yield f'init_from {reprlib.repr(weights)} instead of {f"the weights of {start}" if start else None}'


def _starts_from(weights: object, start: str | None) -> bool:
    """Whether recorded initial weights are those of a run; evidence may have lost its folder."""
    if weights is None or start is None:
        return weights is start
    folder = ModelSource.parse(str(weights)).folder  # RUNS/NAME/model, or model
    return folder is not None and folder.parent.name in (start, '')


def _read_predictions(run: Run, runs: Runs, split: Split) -> Predictions:
    predictions = runs.read_predictions(run.name, split)
    labels, names = predictions.labels, run.data.class_names
    if predictions.class_names != names or not np.isin(labels, range(len(names))).all() or not len(labels):
        raise InputError(f'its {split} logits are of other classes, wanted those of crops of {", ".join(names)}.')
    if not np.isfinite(predictions.logits).all():
        raise InputError(f'its {split} logits contain NaN or infinite values: the run has diverged.')
    return predictions


def _check_metrics(metrics: Metrics, predictions: Predictions) -> None:
    recorded = msgspec.to_builtins(metrics)
    for key, value in msgspec.to_builtins(score(predictions)).items():
        if not _agree(recorded[key], value):
            found = reprlib.repr(value)
            raise InputError(f'its results have {key} {reprlib.repr(recorded[key])}, its logits {found}.')


def _agree(recorded: Any, found: Any) -> bool:
    """Whether two plain values are equal up to rounding errors."""
    if isinstance(found, dict) and isinstance(recorded, dict):
        return recorded.keys() == found.keys() and all(_agree(recorded[key], value) for key, value in found.items())
    if isinstance(found, list) and isinstance(recorded, list):
        return len(recorded) == len(found) and all(map(_agree, recorded, found))
    if isinstance(found, float) and isinstance(recorded, float):
        return math.isclose(recorded, found, rel_tol=1e-6, abs_tol=1e-9)
    return type(recorded) is type(found) and bool(recorded == found)
