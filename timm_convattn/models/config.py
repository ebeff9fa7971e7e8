"""The configuration of a timm model: its weights and its input."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import timm
import torch.nn as nn

__all__ = ['Preprocessing', 'model_data_config', 'pretrained_cfg']


class Preprocessing(TypedDict):
    """Preprocessing of a model's input, as arguments of timm's `create_transform`."""

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str


def pretrained_cfg(model: nn.Module) -> Mapping[str, Any]:
    """Return the configuration of the weights that a timm model has or started from."""
    return cast(Mapping[str, Any], model.pretrained_cfg)


def model_data_config(model: nn.Module) -> Preprocessing:
    """Return the preprocessing of a model's input."""
    return cast(Preprocessing, timm.data.resolve_model_data_config(model))
