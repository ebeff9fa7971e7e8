"""The configuration of a timm model: its weights and its input."""

from typing import Any, cast

import timm
import torch.nn as nn

__all__ = ['model_data_config', 'pretrained_cfg']


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """Return the configuration of the weights that a timm model has or started from."""
    return cast(dict[str, Any], model.pretrained_cfg)


def model_data_config(model: nn.Module) -> dict[str, Any]:
    """Return the input configuration of a model, as arguments of timm's `create_transform`."""
    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return config
