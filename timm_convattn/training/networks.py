"""The network of a run: a timm model, made for the crops at hand, with the weights that it starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch.nn as nn
import yaml

from timm_convattn.config import ModelConfig
from timm_convattn.errors import InputError
from timm_convattn.factory import check_name, create_on_meta, make_network
from timm_convattn.hub.loading import check_weights, fetch_weights
from timm_convattn.layers import RelMha2d
from timm_convattn.models import MODULES
from timm_convattn.models.config import Preprocessing, pretrained_cfg

__all__ = ['create_network', 'network_input']


def create_network(config: ModelConfig, class_names: list[str], img_size: tuple[int, int]) -> nn.Module:
    """Make the network that a configuration describes, with the weights that it starts from.

    Args:
        config: Which model, and where its weights start.
        class_names: Classes of the crops. Weights that were trained for other classes get a fresh classifier.
        img_size: Height and width of the input, for models that are built for one.

    Raises:
        InputError: If there is no such model, it does not take the arguments, or its weights cannot be had.
    """
    check_name(config.model)
    given = dict(
        img_size=img_size,
        num_classes=len(class_names),
        in_chans=config.in_chans,
        drop_rate=config.drop_rate,
        **_model_args(config.model_args),
    )
    if config.init_from is None:
        return make_network(config.model, pretrained=config.pretrained, **given)
    if not config.init_from.startswith(('local-dir:', 'hf-hub:', 'hf_hub:')):
        raise InputError(f'init_from is {config.init_from!r}, wanted local-dir:FOLDER or hf-hub:OWNER/NAME.')
    saved = create_on_meta(config.init_from)
    cfg, wanted = pretrained_cfg(saved), config.model.split('.')[0]
    if cfg['architecture'] == wanted:
        model = make_network(config.init_from, pretrained=True, **given)
    elif _is_backbone(saved, wanted):
        model = _augment(config.init_from, cfg, wanted, given)
    else:
        found = cfg['architecture']
        raise InputError(f'{config.init_from} holds an {found}, but model is {config.model}: give --model {found}.')
    if cfg.get('label_names', class_names) != class_names:
        cast(Any, model).reset_classifier(len(class_names))
    return model


def _is_backbone(saved: nn.Module, model: str) -> bool:
    """Say whether saved weights are a plain network's, and the model one of ours around such a network."""
    has_attention = any(isinstance(module, RelMha2d) for module in saved.modules())
    return not has_attention and model in timm.list_models(module=MODULES) and model != 'convattn'


def _augment(name: str, cfg: Mapping[str, Any], model: str, given: dict[str, Any]) -> nn.Module:
    """Put a trained backbone's weights into a model of ours, which computes what the backbone does."""
    weights = fetch_weights(name)
    overlay = {'file': str(weights), **{key: cfg[key] for key in ('num_classes', 'input_size', 'mean', 'std')}}
    augmented = make_network(model, pretrained=True, pretrained_cfg_overlay=overlay, **given)
    check_weights(cast(Path, weights), augmented, name)
    return augmented


def _model_args(pairs: Sequence[str]) -> dict[str, Any]:
    args = {}
    for pair in pairs:
        name, equals, value = pair.partition('=')
        if not (name and equals and value):
            raise InputError(f'model_args holds {pair!r}, wanted name=value, such as num_heads=4.')
        args[name] = yaml.safe_load(value)
    return args


def network_input(config: ModelConfig, model: nn.Module, img_size: tuple[int, int]) -> Preprocessing:
    """Say how the input of a network is made, in the terms of timm's `create_transform`: squashed to its size."""
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
    return (round(sum(values) / len(values), 4),) * in_chans  # one channel instead of three, or the other way round
