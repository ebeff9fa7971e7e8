"""The network of a run: a timm model, made or loaded for the crops at hand."""

import difflib
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
import torch.nn as nn
import yaml

import timm_convattn  # noqa: F401  registers the models
from timm_convattn.errors import InputError
from timm_convattn.hub import pretrained_cfg
from timm_convattn.hub.loading import check_weights, fetch_weights
from timm_convattn.models import MODULES

if TYPE_CHECKING:  # at run time it would bring everything that training needs to those who only load a model
    from timm_convattn.training.config import ModelConfig

__all__ = ['create_network', 'full_name', 'label_names', 'load_model', 'load_network', 'network_input', 'sketch_model']


def create_network(config: 'ModelConfig', class_names: list[str], img_size: tuple[int, int]) -> nn.Module:
    """Make the network that a configuration describes, with the weights that it starts from.

    Args:
        config: Which model, and where its weights start.
        class_names: Classes of the crops. Weights that were trained for other classes get a fresh classifier.
        img_size: Height and width of the input, for models that are built for one.

    Raises:
        InputError: If there is no such model, it does not take the arguments, or its weights cannot be had.
    """
    name = config.init_from or config.model
    if config.init_from and not config.init_from.startswith(('local-dir:', 'hf-hub:', 'hf_hub:')):
        raise InputError(f'init_from is {name!r}, wanted local-dir:FOLDER or hf-hub:OWNER/NAME.')
    _check_name(name)
    given = dict(
        img_size=img_size,
        num_classes=len(class_names),
        in_chans=config.in_chans,
        drop_rate=config.drop_rate,
        **_model_args(config.model_args),
    )
    if config.init_from and (backbone := _backbone_cfg(config.init_from, config.model)) is not None:
        return _augment(config.init_from, backbone, config.model, class_names, given)
    model = _create(name, pretrained=config.pretrained or config.init_from is not None, **given)
    architecture = pretrained_cfg(model)['architecture']
    if architecture != config.model.split('.')[0]:
        raise InputError(f'{name} holds an {architecture}, but model is {config.model}: give --model {architecture}.')
    if config.init_from and pretrained_cfg(model).get('label_names', class_names) != class_names:
        cast(Any, model).reset_classifier(len(class_names))
    return model


def _backbone_cfg(name: str, model: str) -> dict[str, Any] | None:
    """Give the configuration of saved weights that one of our models can take for its backbone's, None for others."""
    if model.split('.')[0] not in timm.list_models(module=MODULES):
        return None
    cfg = pretrained_cfg(sketch_model(name))
    is_backbone = cfg['architecture'] not in timm.list_models(module=MODULES)
    return cfg if is_backbone else None


def _augment(
    name: str, cfg: dict[str, Any], model_name: str, class_names: list[str], given: dict[str, Any]
) -> nn.Module:
    """Put a trained backbone's weights into a model of ours, which computes what the backbone does."""
    weights = _fetch_weights(name)
    overlay = {'file': str(weights), **{key: cfg[key] for key in ('num_classes', 'input_size', 'mean', 'std')}}
    model = _create(model_name, pretrained=True, pretrained_cfg_overlay=overlay, **given)
    check_weights(cast(Path, weights), model, name)
    if cfg.get('label_names', class_names) != class_names:
        cast(Any, model).reset_classifier(len(class_names))
    return model


def full_name(name: str) -> str:
    """Give the name that timm knows a model by: a folder that holds one may be named without `local-dir:`.

    Args:
        name: The name of a registered model, hf-hub:OWNER/NAME, local-dir:FOLDER, or FOLDER: a model's or a run's.

    Raises:
        InputError: If there is no such model, or the folder holds none.
    """
    source, _, place = name.rpartition(':')
    folder = Path(place)
    if source == 'local-dir' or (not source and not timm.is_model(name) and folder.is_dir()):
        found = [path for path in (folder, folder / 'model') if (path / 'config.json').is_file()]
        if not found:
            raise InputError(f'{folder} holds no model: it has no config.json. A run has it in its folder model.')
        return f'local-dir:{found[0]}'
    _check_name(name)
    return name


def load_network(name: str) -> tuple[nn.Module, list[str]]:
    """Load a trained model and the names of its classes.

    Args:
        name: As `full_name` takes it.

    Raises:
        InputError: If there is no such model, its weights cannot be had, or it says no class names.
    """
    model = load_model(name)
    names = label_names(model)
    if names is None:
        raise InputError(
            f'{name} does not name its {cast(Any, model).num_classes} classes: label_names in config.json is '
            f'{reprlib.repr(pretrained_cfg(model).get("label_names"))}, so they cannot be compared.'
        )
    return model, names


def load_model(name: str) -> nn.Module:
    """Load a trained model, whether or not it names its classes.

    Args:
        name: As `full_name` takes it.

    Raises:
        InputError: If there is no such model, nobody has trained it, or its weights cannot be had.
    """
    name = full_name(name)
    architecture = name.split('.')[0]
    if ':' not in name and architecture in timm.list_models(module=MODULES):
        raise InputError(
            f'{name} is not trained: what there is for it are weights of its backbone, to start from. Train it on '
            f'crops (train_scripts/finetune.py --model {architecture} --data CROPS), then give runs/NAME/model.'
        )
    if ':' not in name and not timm.is_model_pretrained(name):
        raise InputError(f'{name} has no weights. Give a model that has, local-dir:FOLDER or hf-hub:OWNER/NAME.')
    return _create(name, pretrained=True)


def label_names(model: nn.Module) -> list[str] | None:
    """Give the names of a model's classes that were saved with it, None where they are missing or do not fit."""
    names: Any = pretrained_cfg(model).get('label_names')
    is_list = isinstance(names, list | tuple) and all(isinstance(label, str) for label in names)
    return list(names) if is_list and len(names) == cast(Any, model).num_classes else None


def sketch_model(name: str) -> nn.Module:
    """Build a model without weights and without memory for them, on the meta device.

    Args:
        name: As `full_name` takes it.

    Raises:
        InputError: If there is no such model, or it cannot be built.
    """
    return _create(full_name(name), pretrained=False, device='meta')


def network_input(config: 'ModelConfig', model: nn.Module, img_size: tuple[int, int]) -> dict[str, Any]:
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


def _check_name(name: str) -> None:
    if ':' in name or timm.is_model(name):
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f' Did you mean {" or ".join(close)}?' if close else ' timm.list_models() lists what there is.'
    raise InputError(f'There is no model {name!r}.{hint}')


def _model_args(pairs: Sequence[str]) -> dict[str, Any]:
    args = {}
    for pair in pairs:
        name, equals, value = pair.partition('=')
        if not (name and equals and value):
            raise InputError(f'model_args holds {pair!r}, wanted name=value, such as num_heads=4.')
        args[name] = yaml.safe_load(value)
    return args


def _fetch_weights(name: str) -> Path | None:
    try:
        return fetch_weights(name)
    except InputError as error:
        if ':' in name:
            raise
        raise InputError(f'{error} Or start from random weights with --no-pretrained.') from None


def _create(name: str, pretrained: bool, img_size: tuple[int, int] | None = None, **kwargs: Any) -> nn.Module:
    """Call timm; what the user can mend becomes an `InputError`."""
    weights = None
    if pretrained and 'pretrained_cfg_overlay' not in kwargs:
        weights = _fetch_weights(kwargs.get('backbone', name) if name == 'convattn' else name)
    try:
        try:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, img_size=img_size, **kwargs)
        except TypeError as error:
            if "'img_size'" not in str(error):
                raise
            model = timm.create_model(name, pretrained=pretrained, **kwargs)  # takes any size without being told
        if weights is not None and ':' in name:  # those that timm names are known
            check_weights(weights, model, name)
    except InputError:
        raise
    except Exception as error:  # a configuration from elsewhere can lead timm to anything
        raise InputError(f'{name} could not be created ({type(error).__name__}: {error}).') from error
    return model
