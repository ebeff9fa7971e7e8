"""Networks by their names: timm's, ours, and those that were trained and saved."""

import difflib
import reprlib
from pathlib import Path
from typing import Any, cast

import timm
import torch.nn as nn

import timm_convattn  # noqa: F401  registers the models
from timm_convattn.errors import InputError
from timm_convattn.hub.loading import check_weights, fetch_weights
from timm_convattn.models import MODULES
from timm_convattn.models.config import pretrained_cfg

__all__ = [
    'check_name',
    'create_on_meta',
    'full_name',
    'label_names',
    'load_model',
    'load_network',
    'make_network',
]


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
    check_name(name)
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
    return make_network(name, pretrained=True)


def label_names(model: nn.Module) -> list[str] | None:
    """Give the names of a model's classes that were saved with it, None where they are missing or do not fit."""
    names: Any = pretrained_cfg(model).get('label_names')
    is_list = isinstance(names, list | tuple) and all(isinstance(label, str) for label in names)
    return list(names) if is_list and len(names) == cast(Any, model).num_classes else None


def create_on_meta(name: str) -> nn.Module:
    """Build a model without weights and without memory for them, on the meta device.

    Args:
        name: As `full_name` takes it.

    Raises:
        InputError: If there is no such model, or it cannot be built.
    """
    return make_network(full_name(name), pretrained=False, device='meta')


def check_name(name: str) -> None:
    """Refuse a name that timm does not know; one with a source (hf-hub:, local-dir:) is looked up later.

    Raises:
        InputError: Naming models with similar names.
    """
    if ':' in name or timm.is_model(name):
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f' Did you mean {" or ".join(close)}?' if close else ' timm.list_models() lists what there is.'
    raise InputError(f'There is no model {name!r}.{hint}')


def make_network(name: str, pretrained: bool, img_size: tuple[int, int] | None = None, **kwargs: Any) -> nn.Module:
    """Have timm create a network, from safetensors or from nothing.

    Args:
        name: As timm knows it.
        pretrained: Whether to load the weights that the name stands for.
        img_size: Height and width of the input, for models that are built for one.
        **kwargs: Whatever else `timm.create_model` takes.

    Raises:
        InputError: If it does not take the arguments, or its weights cannot be had.
    """
    weights = None
    if pretrained and 'pretrained_cfg_overlay' not in kwargs:
        weights = _fetch_start(kwargs.get('backbone', name) if name == 'convattn' else name)
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


def _fetch_start(name: str) -> Path | None:
    try:
        return fetch_weights(name)
    except InputError as error:
        if ':' in name:
            raise
        raise InputError(f'{error} Or start from random weights with --no-pretrained.') from None
