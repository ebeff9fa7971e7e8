"""The configuration of a timm model: its weights and its input."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import timm
import torch.nn as nn

__all__ = ['Preprocessing', 'label_names', 'model_data_config', 'pretrained_cfg']


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


def label_names(model: nn.Module) -> list[str] | None:
    """Return the saved names of the classes, None if they are missing or their number differs from the model's."""
    names: Any = pretrained_cfg(model).get('label_names')
    is_list = isinstance(names, list | tuple) and all(isinstance(label, str) for label in names)
    return list(names) if is_list and len(names) == cast(int, model.num_classes) else None


def model_data_config(model: nn.Module) -> Preprocessing:
    """Return the preprocessing of a model's input."""
    return cast(Preprocessing, timm.data.resolve_model_data_config(model))
