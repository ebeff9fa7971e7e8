"""Using a trained model: images in, classes with their probabilities out, and no answer where it was told to be sure.

classifier = Classifier.load('local-dir:runs/NAME/model', reject_at=0.01)
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
from timm_convattn.factory import full_name, label_names, load_model
from timm_convattn.hub.loading import find_rejection, load_rejection
from timm_convattn.models.config import Preprocessing, model_data_config
from timm_convattn.rejection import Rejection

if TYPE_CHECKING:
    from timm_convattn.explain import Explanation

__all__ = ['Classifier', 'Prediction', 'name_classes']


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    """In the order of the names."""
    is_answered: bool
    """Whether the confidence reaches the threshold; true where none was asked for."""

    @property
    def label(self) -> str:
        """The most likely class, whether it is answered or not."""
        return self.top(1)[0][0]

    @property
    def confidence(self) -> float:
        """The probability of that class."""
        return max(self.probabilities)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Give the most likely classes with their probabilities, the likeliest first; of equals the earlier one."""
        order = sorted(range(len(self.probabilities)), key=lambda index: -self.probabilities[index])
        return [(self.class_names[index], self.probabilities[index]) for index in order[:count]]


@dataclass(frozen=True)
class Classifier:
    """A trained model, its classes, and how its input is made."""

    model: nn.Module
    """In eval mode."""
    class_names: tuple[str, ...]
    """In the order of the logits."""
    data_config: Preprocessing
    """Its input, as timm's `create_transform` takes it."""
    rejection: Rejection | None = None
    """How sure it was of crops that it had not seen, where its run held some out."""
    threshold: float = 0.0
    """The confidence below which it does not answer."""

    @classmethod
    def load(cls, name: str, reject_at: float | None = None, device: str | torch.device = 'cpu') -> 'Classifier':
        """Load a trained model for use.

        Args:
            name: local-dir:FOLDER, hf-hub:OWNER/NAME, the name of a timm model with weights, or a folder.
            reject_at: Answer only where the share of wrong answers is promised to be at most this.
            device: Where to run.

        Raises:
            InputError: If there is no such model or device, the weights cannot be had, it does not classify images, or
                it is asked to reject and never learned how sure to be.
        """
        place, name = _find_device(device), full_name(name)
        rejection = load_rejection(name) if reject_at is not None else find_rejection(name)
        threshold = 0.0 if reject_at is None or rejection is None else rejection.threshold(reject_at)
        model = load_model(name).eval().to(place)
        config, in_chans = model_data_config(model), cast(Any, model).in_chans
        if cast(Any, model).num_classes < 1:
            raise InputError(f'{name} gives features, and has no classes. Give a model that was trained to classify.')
        if in_chans not in (1, 3):
            raise InputError(f'{name} takes images of {in_chans} channels, wanted 1 (grey) or 3 (RGB).')
        return cls(model, name_classes(model), config, rejection, threshold)

    @property
    def mode(self) -> Literal['L', 'RGB']:
        """The mode of the images that the model takes: grey or colour."""
        return 'L' if self.data_config['input_size'][0] == 1 else 'RGB'

    @property
    def temperature(self) -> float:
        """What the logits are divided by before the softmax."""
        return 1.0 if self.rejection is None else self.rejection.temperature

    @cached_property
    def _transform(self) -> Any:
        return timm.data.create_transform(**self.data_config, is_training=False)

    def open(self, path: Path, percentiles: tuple[float, float] | None = None) -> Image.Image:
        """Decode an image file to the mode that the model takes.

        Args:
            path: The file.
            percentiles: For images of more than 8 bits, the percentiles of the counts that become black and white.

        Raises:
            InputError: If the file cannot be decoded, is too large, or has 16 bits and no `percentiles` are given.
        """
        return decode_image(path, str(path), self.mode, percentiles, upright=True)

    def to_tensor(self, image: Image.Image) -> torch.Tensor:
        """Make an image what the model takes, as its evaluation does.

        Returns:
            (C, H, W)
        """
        image = image if image.mode == self.mode else image.convert(self.mode)
        tensor: torch.Tensor = self._transform(image)
        return tensor

    def to_batch(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Make images what the model takes, as its evaluation does.

        Returns:
            (B, C, H, W), on the CPU.
        """
        if not images:
            return torch.empty(0, *self.data_config['input_size'])
        return torch.stack([self.to_tensor(image) for image in images])

    def classify_batch(self, batch: torch.Tensor) -> list[Prediction]:
        """Classify what `to_batch` made.

        Args:
            batch: (B, C, H, W)
        """
        if not len(batch):
            return []
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            logits = self.model(batch.to(device)).float().cpu().numpy()
        return self.judge(logits)

    def judge(self, logits: npt.NDArray[np.float32]) -> list[Prediction]:
        """Turn logits (B, num_classes) into probabilities, and say which are answered."""
        probabilities = scipy.special.softmax(logits.astype(np.float64) / self.temperature, axis=1)
        is_answered = probabilities.max(axis=1) >= self.threshold
        return [
            Prediction(self.class_names, tuple(row), sure)
            for row, sure in zip(probabilities.tolist(), is_answered.tolist(), strict=True)
        ]

    def classify(self, images: Sequence[Image.Image]) -> list[Prediction]:
        """Classify images as one batch.

        Args:
            images: Of 8 bits and any mode; `open` makes such of 16.
        """
        return self.classify_batch(self.to_batch(images))

    def explain(
        self, image: Image.Image, label: str | None = None, position: tuple[int, int] | None = None
    ) -> 'Explanation':
        """Explain what the model says of an image; confidences are those of `classify`.

        Args:
            image: Of 8 bits and any mode.
            label: The class to explain. None: the predicted one.
            position: Row and column of the pixel whose attention is shown. None: the mean over all positions.

        Raises:
            InputError: As `timm_convattn.explain.explain` raises it.
        """
        from timm_convattn.explain import explain

        batch = self.to_batch([image]).to(next(self.model.parameters()).device)
        shows_all = self.data_config.get('crop_mode') == 'squash'  # else timm cuts its border off
        input_image = image if shows_all else None
        return explain(self.model, batch, self.class_names, label, position, input_image, self.temperature)


def name_classes(model: nn.Module) -> tuple[str, ...]:
    """Name the classes of a model: as it was saved, as ImageNet does where their number is ImageNet's, or by number."""
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
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch says each in its own way
        reason = str(error).splitlines()[0]
        raise InputError(f'{device} cannot be used here ({reason}). Give cpu, or a device that torch has.') from error
