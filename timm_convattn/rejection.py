"""Calibration of a saved model: temperature, and confidence and correctness on held-out crops.

It is stored next to the weights as `rejection.json`, so that a threshold can be chosen for any target error rate.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from timm_convattn.errors import InputError
from timm_convattn.files import write_json
from timm_convattn.predictions import Predictions
from timm_convattn.selective import choose_threshold, confidence, fit_temperature

__all__ = ['FILE_NAME', 'Rejection']

FILE_NAME = 'rejection.json'


@dataclass(frozen=True)
class Rejection:
    """Temperature, and confidence and correctness on held-out crops."""

    temperature: float
    """Divisor of the logits."""
    confidence: npt.NDArray[np.float64]
    """(N,)"""
    hits: npt.NDArray[np.bool_]
    """(N,) whether each answer is right."""

    @classmethod
    def learn(cls, held_out: Predictions) -> 'Rejection':
        """Fit the temperature on held-out crops."""
        temperature = fit_temperature(held_out.logits, held_out.labels)
        return cls(temperature, confidence(held_out.logits, temperature), held_out.hits)

    def threshold(self, target_error_rate: float) -> float:
        """Choose the lowest confidence at which to answer.

        Raises:
            InputError: If no threshold keeps the error rate.
        """
        return choose_threshold(self.confidence, self.hits, target_error_rate)

    def save(self, folder: Path) -> None:
        """Write `rejection.json`, in order of falling confidence."""
        order = np.argsort(-self.confidence, kind='stable')
        content = {
            'temperature': self.temperature,
            'held_out': {'confidence': self.confidence[order].tolist(), 'hit': self.hits[order].astype(int).tolist()},
        }
        write_json(folder / FILE_NAME, content)

    @classmethod
    def load(cls, path: Path) -> 'Rejection':
        """Load a file that `save` wrote.

        Raises:
            InputError: If it cannot be read or is not valid.
        """
        try:
            content = json.loads(path.read_text())
            confidences = np.array(content['held_out']['confidence'], np.float64)
            hits = np.array(content['held_out']['hit']) == 1
            temperature = float(content['temperature'])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError(f'{path} cannot be read ({type(error).__name__}: {error}).') from error
        valid = confidences.ndim == 1 and confidences.shape == hits.shape and len(hits) > 0
        if not (valid and np.isfinite(confidences).all() and 0 < temperature < np.inf):
            raise InputError(
                f'{path} holds {confidences.shape} confidences, {hits.shape} hits and a temperature of {temperature}; '
                'wanted as many finite numbers of each, and a positive temperature.'
            )
        return cls(temperature, confidences, hits)
