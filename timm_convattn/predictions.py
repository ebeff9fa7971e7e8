"""Logits of a model for every crop of a split, saved with a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from timm_convattn.errors import InputError
from timm_convattn.files import replace_file

__all__ = ['Predictions']


@dataclass(frozen=True)
class Predictions:
    """Logits and labels of a split, in its order."""

    logits: npt.NDArray[np.float32]
    """(N, num_classes)"""
    labels: npt.NDArray[np.int64]
    """(N,) true classes."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of the logits."""

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Class of the largest logit (N,)."""
        largest: npt.NDArray[np.int64] = np.argmax(self.logits, axis=1)
        return largest

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """Whether the predicted class is the true one (N,)."""
        return np.equal(self.predicted, self.labels)

    def save(self, path: Path) -> None:
        """Write a safetensors file, complete or not at all."""
        tensors: dict[str, npt.NDArray[Any]] = {
            'logits': np.ascontiguousarray(self.logits),
            'labels': np.ascontiguousarray(self.labels),
        }
        with replace_file(path) as temporary:
            safetensors.numpy.save_file(tensors, temporary, {'class_names': json.dumps(self.class_names)})

    @classmethod
    def load(cls, path: Path) -> 'Predictions':
        """Load a file that `save` wrote.

        Raises:
            InputError: If there is no such file, or it holds no predictions.
        """
        try:
            with safetensors.safe_open(path, 'numpy') as file:
                names = tuple(json.loads(file.metadata()['class_names']))
                logits, labels = file.get_tensor('logits'), file.get_tensor('labels')
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f'{path} cannot be read as predictions ({type(error).__name__}: {error}).') from error
        valid = logits.dtype == np.float32 and labels.dtype == np.int64 and labels.ndim == 1
        if not valid or logits.shape != (len(labels), len(names)):
            raise InputError(
                f'{path} holds logits {logits.shape} ({logits.dtype}) and labels {labels.shape} ({labels.dtype}) of '
                f'{len(names)} classes, wanted (N, {len(names)}) of float32 and (N,) of int64.'
            )
        return cls(logits, labels, names)
