"""The network of a run: a timm model for the classes and size of its crops, with its initial weights."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
import torch.nn as nn
import yaml

from timm_convattn.config import ModelConfig
from timm_convattn.errors import InputError
from timm_convattn.factory import check_pretrained, create_model
from timm_convattn.hub.loading import fetch_weights
from timm_convattn.layers import RelMha2d
from timm_convattn.model_source import ModelSource
from timm_convattn.models import MODULES
from timm_convattn.models.config import Preprocessing, pretrained_cfg

__all__ = ['create_network', 'network_input']


def create_network(config: ModelConfig, class_names: list[str], img_size: tuple[int, int]) -> nn.Module:
    """Create the network of a run with its initial weights.

    Args:
        config: The model and its initial weights.
        class_names: Classes of the crops. If the weights were trained for other classes, the classifier is new.
        img_size: Height and width of the input, for models that are built for one.

    Raises:
        InputError: If there is no such model, it does not accept the arguments, or its weights cannot be loaded.
    """
    source, start = ModelSource.parse(config.model), None
    if config.init_from is not None:
        start = ModelSource.parse(config.init_from)
    elif config.pretrained and source.name is None:
        start = source
    arguments = dict(
        img_size=img_size,
        num_classes=len(class_names),
        in_chans=config.in_chans,
        drop_rate=config.drop_rate,
        **_model_args(config.model_args),
    )
    if start is None:
        return create_model(source, pretrained=config.pretrained, **arguments)
    check_pretrained(start)
    saved = create_model(start, device='meta')
    model = _create_from(start, saved, source, arguments)
    if pretrained_cfg(saved).get('label_names', class_names) != class_names:
        cast(Any, model).reset_classifier(len(class_names))
    return model


def _create_from(start: ModelSource, saved: nn.Module, source: ModelSource, arguments: Mapping[str, Any]) -> nn.Module:
    """Create a model with the weights of a saved one, or of its backbone, whose function it then computes."""
    cfg, wanted = pretrained_cfg(saved), _architecture(source)
    if cfg['architecture'] == wanted:
        return create_model(start, pretrained=True, **arguments)
    if not _is_backbone(saved, wanted):
        found = cfg['architecture']
        raise InputError(f'{start} holds a model {found}, but model is {source}: use --model {found}.')
    weights = fetch_weights(start)
    if weights is None:
        raise InputError(f'The weights of {start} are not on the Hub, so that {wanted} cannot start from them.')
    overlay = {key: cfg[key] for key in ('num_classes', 'input_size', 'mean', 'std')}
    return create_model(source, pretrained=True, weights=weights, pretrained_cfg_overlay=overlay, **arguments)


def _architecture(source: ModelSource) -> str:
    if source.name is not None:
        return source.name.split('.')[0]
    return str(pretrained_cfg(create_model(source, device='meta'))['architecture'])


def _is_backbone(saved: nn.Module, model: str) -> bool:
    """Return whether a saved network is without attention, and the model is one of ours built from such a network."""
    has_attention = any(isinstance(module, RelMha2d) for module in saved.modules())
    return not has_attention and model in timm.list_models(module=MODULES) and model != 'convattn'


def _model_args(pairs: Sequence[str]) -> Mapping[str, Any]:
    args = {}
    for pair in pairs:
        name, equals, value = pair.partition('=')
        if not (name and equals and value):
            raise InputError(f'model_args holds {pair!r}, wanted name=value, such as num_heads=4.')
        args[name] = yaml.safe_load(value)
    return args


def network_input(config: ModelConfig, model: nn.Module, img_size: tuple[int, int]) -> Preprocessing:
    """Return the preprocessing of a run: crops squashed to the size; mean and std of the options or the model."""
    source = pretrained_cfg(model)
    return {
        'input_size': (config.in_chans, *img_size),
        'interpolation': 'bilinear',
        'mean': _per_channel(config.mean or source['mean'], config.in_chans),
        'std': _per_channel(config.std or source['std'], config.in_chans),
        'crop_pct': 1.0,
        'crop_mode': 'squash',
    }


def _per_channel(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    if len(values) == in_chans:
        return tuple(values)
    return (round(sum(values) / len(values), 4),) * in_chans  # from one channel to three, or three to one
