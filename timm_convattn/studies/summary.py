"""Findings of a study summarized as results: plain numbers, from which tables and figures are rendered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timm_convattn.environment import Environment
from timm_convattn.errors import InputError
from timm_convattn.paper import TABLE_2
from timm_convattn.rejection import Rejection
from timm_convattn.results import (
    Arm,
    ArmRun,
    Difference,
    PaperResult,
    SelectiveResults,
    StudyEnvironment,
    StudyResults,
    Summary,
    Target,
)
from timm_convattn.selective import RiskCoverage, confidence, reliability, risk_coverage, selective_metrics
from timm_convattn.studies.findings import Findings, FinishedRun

__all__ = ['TARGET_ERROR_RATES', 'Selection', 'select', 'summarize']

TARGET_ERROR_RATES = (0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Selection:
    """Confidence of a run on the validation split, calibrated on its held-out crops."""

    rejection: Rejection
    """Fitted on the held-out crops."""
    confidence: npt.NDArray[np.float64]
    """(N,) on the validation split."""
    plain_confidence: npt.NDArray[np.float64]
    """(N,) the same without temperature."""
    hits: npt.NDArray[np.bool_]
    """(N,) whether each prediction is correct."""
    curve: RiskCoverage


def select(run: FinishedRun) -> Selection | None:
    """Fit the temperature on the held-out crops and apply it to the validation split; None without held-out crops."""
    if run.held_out is None:
        return None
    rejection, hits = Rejection.learn(run.held_out), run.predictions.hits
    confidences = confidence(run.predictions.logits, rejection.temperature)
    plain = confidence(run.predictions.logits)
    return Selection(rejection, confidences, plain, hits, risk_coverage(confidences, hits))


def summarize(findings: Findings, scale: str) -> StudyResults:
    """Summarize the findings of a study on one data set.

    Args:
        findings: The finished runs.
        scale: Name of the matrix.
    """
    study, differences = findings.study, findings.differences()
    return StudyResults(
        study=study.name,
        title=study.title,
        scale=scale,
        score=study.score,
        data=findings.data.description,
        arms=[_arm(findings, name, differences.get(name)) for name, runs in findings.arms.items() if runs],
        missing_arms=[name for name, runs in findings.arms.items() if not runs],
        unfinished=findings.unfinished,
        problems=[problem.replace(f'{findings.folder}/', '') for problem in findings.problems],
        environment=_environment([run.results.environment for run in findings.runs]),
    )


def _arm(findings: Findings, name: str, difference: Difference | None) -> Arm:
    arm, runs = findings.study.arms[name], findings.arms[name]
    published = TABLE_2.get(findings.data.classes, {}).get(arm.paper or '')
    return Arm(
        name=name,
        model=arm.options['model'],
        options=dict(runs[0].run.options),
        parameters=runs[0].results.model.parameters,
        paper=PaperResult(arm.paper, *published) if arm.paper and published else None,
        accuracy=_mean_and_deviation(findings.scores(name, 'accuracy')),
        macro_f1=_mean_and_deviation(findings.scores(name, 'macro_f1')),
        against=arm.against,
        start=arm.start,
        difference=difference,
        per_class_f1=_per_class_f1(runs),
        runs=[_arm_run(run) for run in runs],
    )


def _mean_and_deviation(values: Sequence[float]) -> Summary:
    return Summary(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _per_class_f1(runs: Sequence[FinishedRun]) -> dict[str, float | None]:
    per_class = [run.results.metrics.per_class for run in runs]
    return {
        name: None if scores.f1 is None else float(np.mean([of_run[name].f1 or 0.0 for of_run in per_class]))
        for name, scores in per_class[0].items()
    }


def _arm_run(run: FinishedRun) -> ArmRun:
    metrics, environment, selection = run.results.metrics, run.results.environment, select(run)
    return ArmRun(
        run=run.run.name,
        seed=run.run.seed,
        accuracy=metrics.accuracy,
        macro_f1=metrics.macro_f1,
        weighted_f1=metrics.weighted_f1,
        loss=metrics.loss,
        confusion_matrix=metrics.confusion_matrix,
        seconds=run.training.seconds,
        epochs=run.training.epochs,
        date=environment.date,
        commit=environment.commit,
        selection=None if selection is None else _selective_results(selection),
    )


def _selective_results(selection: Selection) -> SelectiveResults:
    return SelectiveResults(
        held_out=len(selection.rejection.hits),
        held_out_accuracy=float(selection.rejection.hits.mean()),
        temperature=selection.rejection.temperature,
        area=selection.curve.area,
        minimum_area=selection.curve.minimum_area,
        calibration_error=reliability(selection.confidence, selection.hits).error,
        calibration_error_without_temperature=reliability(selection.plain_confidence, selection.hits).error,
        targets=[_target(selection, error_rate) for error_rate in TARGET_ERROR_RATES],
    )


def _target(selection: Selection, error_rate: float) -> Target:
    rejection = selection.rejection
    try:
        threshold = rejection.threshold(error_rate)
    except InputError as error:
        return Target(error_rate, refused=str(error))
    return Target(
        error_rate,
        held_out=selective_metrics(rejection.confidence, rejection.hits, threshold),
        validation=selective_metrics(selection.confidence, selection.hits, threshold),
    )


def _environment(environments: Sequence[Environment]) -> StudyEnvironment:
    dates = sorted(environment.date for environment in environments)
    hardware, versions = [], []
    for environment in environments:
        hardware += [environment.hardware] if environment.hardware not in hardware else []
        versions += [environment.versions] if environment.versions not in versions else []
    commits = sorted({str(environment.commit) for environment in environments})
    return StudyEnvironment(dates[0], dates[-1], commits, hardware, versions)
