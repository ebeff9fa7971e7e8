"""What the runs of a study found, read from their folders: what cannot be used is named, never mixed in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timm_convattn.errors import InputError
from timm_convattn.predictions import Predictions
from timm_convattn.results import Difference
from timm_convattn.studies.data import StudyData
from timm_convattn.studies.matrix import Matrix, Run, Study
from timm_convattn.studies.results import Runs, Split, check_metrics, read_results
from timm_convattn.studies.statistics import adjust, compare, counts_by_frame

__all__ = ['Findings', 'FinishedRun', 'gather']


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended well."""

    run: Run
    folder: Path
    record: dict[str, Any]
    """Its results file."""
    predictions: Predictions
    """What it says of the validation split."""
    held_out: Predictions | None
    """What it says of the crops that were held out of training, if any were."""


@dataclass(frozen=True)
class Findings:
    """The finished runs of a study on one data set."""

    study: Study
    data: StudyData
    frames: npt.NDArray[np.int64]
    """(N,) which frame each crop of the validation split is of."""
    rows: Mapping[str, list[FinishedRun]]
    """Row -> its finished runs, by seed."""
    folder: Path
    """The folder of all runs."""
    unfinished: int
    problems: list[str] = field(default_factory=list)
    """Runs that cannot be used, and why."""

    @property
    def is_begun(self) -> bool:
        """Whether any run is finished."""
        return any(self.rows.values())

    def scores(self, row: str, score: str | None = None) -> list[float]:
        """Give the study's score of each finished run of a row."""
        return [run.record['metrics'][score or self.study.score] for run in self.rows[row]]

    def differences(self) -> dict[str, Difference]:
        """Compare each row with the one that it is held against, all of them counted as one family of tests."""
        pairs = {row: told.against for row, told in self.study.rows.items() if told.against is not None}
        found = {row: self._difference(row, against) for row, against in pairs.items()}
        return adjust({row: difference for row, difference in found.items() if difference is not None})

    def _difference(self, row: str, other: str) -> Difference | None:
        """Compare two rows over the seeds that both have finished; None where there is none."""
        ours, theirs = ({run.run.seed: run for run in self.rows[name]} for name in (row, other))
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            return None
        counts = [[self._counts(runs[seed]) for seed in shared] for runs in (ours, theirs)]
        return compare(counts[0], counts[1], self.study.score)

    def _counts(self, run: FinishedRun) -> npt.NDArray[np.int64]:
        predictions = run.predictions
        num_classes = len(predictions.class_names)
        return counts_by_frame(predictions.predicted, predictions.labels, self.frames, num_classes)


def gather(matrix: Matrix, study: str, data: StudyData, runs: Runs) -> Findings:
    """Read the finished runs of a study.

    Args:
        matrix: All studies.
        study: Which one.
        data: The crops.
        runs: All runs.
    """
    labels, frames = data.validation_labels_and_frames()
    rows: dict[str, list[FinishedRun]] = {}
    unfinished, problems = 0, []
    for row in matrix.study(study).rows:
        rows[row] = []
        for run in matrix.runs(study, row, data):
            try:
                finished = _read(run, runs, labels)
            except InputError as error:
                problems.append(str(error))
                continue
            unfinished += finished is None
            rows[row] += [] if finished is None else [finished]
    return Findings(matrix.study(study), data, frames, rows, runs.folder, unfinished, problems)


def _read(run: Run, runs: Runs, labels: npt.NDArray[np.int64]) -> FinishedRun | None:
    record = read_results(run, runs)
    if record is None:
        return None
    predictions = _read_predictions(run, runs, 'validation')
    if not np.array_equal(predictions.labels, labels):
        raise InputError(
            f'{runs.run_folder(run.name)}: its logits are of other crops than its results. {runs.remedy(run.name)}'
        )
    check_metrics(record, predictions, run.name, runs)
    held_out = _read_predictions(run, runs, 'held_out') if run.options.get('hold_out') else None
    return FinishedRun(run, runs.run_folder(run.name), record, predictions, held_out)


def _read_predictions(run: Run, runs: Runs, split: Split) -> Predictions:
    remedy = runs.remedy(run.name)
    try:
        predictions = runs.read_predictions(run.name, split)
    except InputError as error:
        raise InputError(f'{error} {remedy}') from error
    where = f'The {split} logits of {runs.run_folder(run.name)}'
    labels, names = predictions.labels, run.data.class_names
    if predictions.class_names != names or not np.isin(labels, range(len(names))).all() or not len(labels):
        raise InputError(f'{where}: wanted those of crops of {", ".join(names)}. {remedy}')
    if not np.isfinite(predictions.logits).all():
        raise InputError(f'{where} hold NaN or infinite values: the run has diverged. {remedy}')
    return predictions
