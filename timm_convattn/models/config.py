"""What a timm model's configuration says of its weights and its input."""

from typing import Any, cast

import timm
import torch.nn as nn

__all__ = ['model_data_config', 'pretrained_cfg']


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """Give the configuration of the weights that a model of timm has or started from."""
    return cast(dict[str, Any], model.pretrained_cfg)


def model_data_config(model: nn.Module) -> dict[str, Any]:
    """Give the input that a model was made for, as timm's `create_transform` takes it."""
    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return config
