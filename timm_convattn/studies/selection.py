"""What a run that held frames out can leave unanswered: chosen on the held-out crops, told on the validation split."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from timm_convattn.errors import InputError
from timm_convattn.rejection import Rejection
from timm_convattn.selective import (
    RiskCoverage,
    confidence,
    reliability,
    risk_coverage,
    selective_metrics,
)
from timm_convattn.studies.gathering import FinishedRun

__all__ = ['WANTED_RISKS', 'Selection', 'select', 'selection_record']

WANTED_RISKS = (0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Selection:
    """How sure a run is of the validation split, and what it learned from its held-out crops."""

    rejection: Rejection
    """Learned on the held-out crops."""
    confidence: npt.NDArray[np.float64]
    """(N,) of the validation split."""
    plain_confidence: npt.NDArray[np.float64]
    """(N,) the same without temperature."""
    hits: npt.NDArray[np.bool_]
    curve: RiskCoverage


def select(run: FinishedRun) -> Selection | None:
    """Fit the temperature on the held-out crops and apply it to the validation split; None where none were held out."""
    if run.held_out is None:
        return None
    rejection = Rejection.learn(run.held_out)
    sureness, hits = confidence(run.predictions.logits, rejection.temperature), run.predictions.hits
    return Selection(
        rejection=rejection,
        confidence=sureness,
        plain_confidence=confidence(run.predictions.logits),
        hits=hits,
        curve=risk_coverage(sureness, hits),
    )


def selection_record(run: FinishedRun) -> dict[str, Any] | None:
    """Put what a run can leave unanswered into numbers; None where no frames were held out."""
    selection = select(run)
    if selection is None:
        return None
    return {
        'held_out': len(selection.rejection.hits),
        'held_out_accuracy': float(selection.rejection.hits.mean()),
        'temperature': selection.rejection.temperature,
        'area': selection.curve.area,
        'least_area': selection.curve.least_area,
        'calibration_error': reliability(selection.confidence, selection.hits).error,
        'calibration_error_without_temperature': reliability(selection.plain_confidence, selection.hits).error,
        'wanted': [_at(selection, risk) for risk in WANTED_RISKS],
    }


def _at(selection: Selection, risk: float) -> dict[str, Any]:
    try:
        threshold = selection.rejection.threshold(risk)
    except InputError as error:
        return {'error_rate': risk, 'refused': str(error)}
    on_held_out = selective_metrics(selection.rejection.confidence, selection.rejection.hits, threshold)
    on_validation = selective_metrics(selection.confidence, selection.hits, threshold)
    return {'error_rate': risk, 'held_out': on_held_out, 'validation': on_validation}
