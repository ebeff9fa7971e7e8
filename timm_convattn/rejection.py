"""What a saved model needs in order to reject: how sure it was of crops that it had not seen, and how often right.

It lies beside the weights as `rejection.json`: a threshold for any error rate can be chosen where they are used.
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
    """Held-out crops as confidences and hits."""

    temperature: float
    """What logits are divided by before the softmax."""
    confidence: npt.NDArray[np.float64]
    """(N,)"""
    hits: npt.NDArray[np.bool_]
    """(N,)"""

    @classmethod
    def learn(cls, held_out: Predictions) -> 'Rejection':
        """Fit the temperature to held-out crops."""
        temperature = fit_temperature(held_out.logits, held_out.labels)
        return cls(temperature, confidence(held_out.logits, temperature), held_out.hits)

    def threshold(self, wanted_risk: float) -> float:
        """Choose the confidence below which not to answer.

        Raises:
            InputError: If no threshold promises the wanted share of errors.
        """
        return choose_threshold(self.confidence, self.hits, wanted_risk)

    def save(self, folder: Path) -> None:
        """Write `rejection.json`, the surest crop first."""
        order = np.argsort(-self.confidence, kind='stable')
        content = {
            'temperature': self.temperature,
            'held_out': {'confidence': self.confidence[order].tolist(), 'hit': self.hits[order].astype(int).tolist()},
        }
        write_json(folder / FILE_NAME, content)

    @classmethod
    def load(cls, path: Path) -> 'Rejection':
        """Read what `save` wrote.

        Raises:
            InputError: If it is not that.
        """
        try:
            content = json.loads(path.read_text())
            sureness = np.array(content['held_out']['confidence'], np.float64)
            hits = np.array(content['held_out']['hit']) == 1
            temperature = float(content['temperature'])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError(f'{path} cannot be read ({type(error).__name__}: {error}).') from error
        fits = sureness.ndim == 1 and sureness.shape == hits.shape and len(hits) > 0
        if not (fits and np.isfinite(sureness).all() and 0 < temperature < np.inf):
            raise InputError(
                f'{path} holds {sureness.shape} confidences, {hits.shape} hits and a temperature of {temperature}; '
                'wanted as many numbers of each, and a positive temperature.'
            )
        return cls(temperature, sureness, hits)
