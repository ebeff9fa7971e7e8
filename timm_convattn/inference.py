"""Classify images with a trained model; it can reject those whose confidence is too low.

classifier = load_classifier('runs/NAME', reject_at=0.01)
for prediction in classifier.classify([Image.open('crop.png')]):
    print(prediction.label, prediction.confidence, prediction.is_answered)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import scipy.special
import timm
import torch
import torch.nn as nn
from PIL import Image

from timm_convattn.data.images import decode_image
from timm_convattn.errors import InputError
from timm_convattn.factory import load_model
from timm_convattn.hub.loading import find_rejection, load_rejection
from timm_convattn.model_source import ModelSource, Source
from timm_convattn.models.config import Preprocessing, label_names, model_data_config
from timm_convattn.rejection import Rejection

if TYPE_CHECKING:
    from timm_convattn.explain import Explanation

__all__ = ['Classifier', 'Prediction', 'load_classifier', 'name_classes']


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    """In the order of `class_names`."""
    is_answered: bool
    """Whether the confidence reaches the threshold; always true without one."""

    @property
    def label(self) -> str:
        """The most probable class, also of a rejected image."""
        return self.top(1)[0][0]

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return max(self.probabilities)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities, in descending order."""
        order = sorted(range(len(self.probabilities)), key=lambda index: -self.probabilities[index])
        return [(self.class_names[index], self.probabilities[index]) for index in order[:count]]


@dataclass(frozen=True)
class Classifier:
    """A trained model with its classes and its preprocessing."""

    model: nn.Module
    """In eval mode."""
    class_names: tuple[str, ...]
    """In the order of the logits."""
    data_config: Preprocessing
    """Arguments of timm's `create_transform`."""
    rejection: Rejection | None = None
    """Calibration on held-out crops, if its run held some out."""
    threshold: float = 0.0
    """Confidence below which it rejects."""

    @property
    def mode(self) -> Literal['L', 'RGB']:
        """Mode of the input images: grey or colour."""
        return 'L' if self.data_config['input_size'][0] == 1 else 'RGB'

    @property
    def temperature(self) -> float:
        """Divisor of the logits before the softmax."""
        return 1.0 if self.rejection is None else self.rejection.temperature

    @cached_property
    def _transform(self) -> Any:
        return timm.data.create_transform(**self.data_config, is_training=False)

    def open(self, path: Path, percentiles: tuple[float, float] | None = None) -> Image.Image:
        """Decode an image file to the mode of the input images.

        Args:
            path: The file.
            percentiles: For images of more than 8 bits, the percentiles of the counts that become black and white.

        Raises:
            InputError: If the file cannot be decoded, is too large, or has 16 bits and no `percentiles` are given.
        """
        return decode_image(path, str(path), self.mode, percentiles, upright=True)

    def to_tensor(self, image: Image.Image) -> torch.Tensor:
        """Preprocess an image as the evaluation does. Returns (C, H, W)."""
        image = image if image.mode == self.mode else image.convert(self.mode)
        tensor: torch.Tensor = self._transform(image)
        return tensor

    def to_batch(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocess images as the evaluation does. Returns (B, C, H, W), on the CPU."""
        if not images:
            return torch.empty(0, *self.data_config['input_size'])
        return torch.stack([self.to_tensor(image) for image in images])

    def classify_batch(self, batch: torch.Tensor) -> list[Prediction]:
        """Classify the output of `to_batch`, (B, C, H, W)."""
        if not len(batch):
            return []
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            logits = self.model(batch.to(device)).float().cpu().numpy()
        return self.decide(logits)

    def decide(self, logits: npt.NDArray[np.float32]) -> list[Prediction]:
        """Compute the predictions from logits (B, num_classes)."""
        probabilities = scipy.special.softmax(logits.astype(np.float64) / self.temperature, axis=1)
        is_answered = probabilities.max(axis=1) >= self.threshold
        return [
            Prediction(self.class_names, tuple(row), answered)
            for row, answered in zip(probabilities.tolist(), is_answered.tolist(), strict=True)
        ]

    def classify(self, images: Sequence[Image.Image]) -> list[Prediction]:
        """Classify images as one batch.

        Args:
            images: Images of 8 bits and any mode; `open` converts those of 16 bits.
        """
        return self.classify_batch(self.to_batch(images))

    def explain(
        self, image: Image.Image, label: str | None = None, position: tuple[int, int] | None = None
    ) -> 'Explanation':
        """Explain the prediction for an image; probabilities equal those of `classify`.

        Args:
            image: Image of 8 bits and any mode.
            label: Class to explain. None: the predicted one.
            position: Row and column of the pixel whose attention is shown. None: the mean over all positions.

        Raises:
            InputError: As `timm_convattn.explain.explain` raises it.
        """
        from timm_convattn.explain import explain

        batch = self.to_batch([image]).to(next(self.model.parameters()).device)
        shows_all = self.data_config.get('crop_mode') == 'squash'  # else timm cuts its border off
        input_image = image if shows_all else None
        return explain(self.model, batch, self.class_names, label, position, input_image, self.temperature)


def load_classifier(source: Source, reject_at: float | None = None, device: str | torch.device = 'cpu') -> Classifier:
    """Load a trained model to classify images.

    Args:
        source: The folder of a run or a model, local-dir:FOLDER, hf-hub:OWNER/NAME[@REVISION], or the name of a timm
            model with weights (`ModelSource`).
        reject_at: Target error rate: answer only if the expected share of wrong answers is at most this.
        device: Device of the model.

    Raises:
        InputError: If there is no such model or device, its weights cannot be loaded, it does not classify images, or
            `reject_at` is given for a model without calibration.
    """
    device, source = _find_device(device), ModelSource.parse(source).resolve()
    rejection = load_rejection(source) if reject_at is not None else find_rejection(source)
    threshold = 0.0 if reject_at is None or rejection is None else rejection.threshold(reject_at)
    model = load_model(source).eval().to(device)
    config, in_chans = model_data_config(model), cast(int, model.in_chans)
    if cast(int, model.num_classes) < 1:
        raise InputError(f'{source} outputs features and has no classes. Give a model that was trained to classify.')
    if in_chans not in (1, 3):
        raise InputError(f'{source} takes images of {in_chans} channels, wanted 1 (grey) or 3 (RGB).')
    return Classifier(model, name_classes(model), config, rejection, threshold)


def name_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the saved names of the classes; without any, the names of ImageNet if their number matches, or numbers."""
    names = label_names(model)
    if names is not None:
        return tuple(names)
    num_classes = cast(Any, model).num_classes
    subset = timm.data.infer_imagenet_subset({'num_classes': num_classes})
    if subset is None:
        return tuple(f'class {index}' for index in range(num_classes))
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions())


def _find_device(device: str | torch.device) -> torch.device:
    try:
        torch.zeros(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them
        reason = str(error).splitlines()[0]
        raise InputError(f'{device} cannot be used here ({reason}). Give cpu, or a device that torch has.') from error
