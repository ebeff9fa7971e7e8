"""What a model is apart from its weights, as plain JSON values: `config.json` stores it, the command line prints it."""

from typing import Any, TypedDict, cast

import torch.nn as nn

from timm_convattn.complexity import count_parameters, measure_complexity
from timm_convattn.layers import RelMha2d
from timm_convattn.models.config import model_data_config, pretrained_cfg

__all__ = ['PAPER_SIZE', 'Attention', 'ModelDescription', 'Network', 'count_macs', 'describe_model', 'describe_network']

PAPER_SIZE = (60, 60)


class Attention(TypedDict):
    """A relative multi-head attention of a model."""

    layer: str
    num_heads: int
    dim_qk: int
    dim_v: int
    feat_size: list[int] | None


# `class` is a keyword
Network = TypedDict(
    'Network',
    {
        'class': str,
        'parameters': int,
        'num_features': int,
        'macs': dict[str, int | None],
        'stages': list[dict[str, str | int]],
        'attention': list[Attention],
    },
)
"""What only the built network shows. `macs` are those of one image, by its size, None if the model rejects the size."""


class ModelDescription(TypedDict):
    """A model as its `config.json` describes it."""

    architecture: str
    num_classes: int
    label_names: list[str] | None
    """As saved: the number of names may differ from that of the classes."""
    pretrained_cfg: dict[str, Any]
    network: Network


def describe_model(model: nn.Module) -> ModelDescription:
    """Describe a timm model on the meta device."""
    config, saved = model_data_config(model), pretrained_cfg(model)
    return {
        'architecture': saved['architecture'],
        'num_classes': cast(int, model.num_classes),
        'label_names': saved.get('label_names'),
        'pretrained_cfg': {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        'network': describe_network(model),
    }


def describe_network(model: nn.Module) -> Network:
    """Describe the network of a timm model on the meta device."""
    sizes = dict.fromkeys((PAPER_SIZE, tuple(model_data_config(model)['input_size'][1:])))
    return {
        'class': f'{type(model).__module__}.{type(model).__qualname__}',
        'parameters': count_parameters(model),
        'num_features': cast(int, model.num_features),
        'macs': {f'{height} x {width}': count_macs(model, (height, width)) for height, width in sizes},
        'stages': [dict(stage) for stage in cast(Any, getattr(model, 'feature_info', []))],
        'attention': [_describe_attention(name, m) for name, m in model.named_modules() if isinstance(m, RelMha2d)],
    }


def _describe_attention(name: str, module: RelMha2d) -> Attention:
    rows, columns = (len(module.height_rel), len(module.width_rel)) if module.rel_pos else (0, 0)
    return {
        'layer': name,
        'num_heads': module.num_heads,
        'dim_qk': module.dim_qk,
        'dim_v': module.dim_out,
        'feat_size': [(rows + 1) // 2, (columns + 1) // 2] if module.rel_pos else None,
    }


def count_macs(model: nn.Module, img_size: tuple[int, int]) -> int | None:
    """Count the multiply-accumulates for one image, None if the model does not accept its size.

    Args:
        model: On the meta device.
        img_size: Height and width, in pixels.
    """
    try:
        return measure_complexity(model, img_size).macs
    except Exception:  # each model rejects a size with an exception of its own
        return None
