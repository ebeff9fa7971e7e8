"""Creating models and loading trained ones, wherever they come from."""

from pathlib import Path
from typing import Any

import timm
import torch.nn as nn

import timm_convattn  # noqa: F401  registers the models
from timm_convattn.errors import InputError
from timm_convattn.hub.loading import check_weights, fetch_weights
from timm_convattn.model_source import ModelSource, Source
from timm_convattn.models import MODULES

__all__ = ['check_pretrained', 'create_model', 'load_model']


def create_model(
    source: Source,
    pretrained: bool = False,
    img_size: tuple[int, int] | None = None,
    weights: Path | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Create a model with timm, from safetensors or with random weights.

    Args:
        source: A name of timm, or a saved model, in any spelling of `ModelSource`.
        pretrained: Whether to load the weights of the source.
        img_size: Height and width of the input, for models that are built for one size.
        weights: File of a backbone's weights to load instead.
        **kwargs: Further arguments of `timm.create_model`.

    Raises:
        InputError: If there is no such model, it does not accept the arguments, or its weights cannot be loaded.
    """
    source = ModelSource.parse(source).resolve()
    if source.name == 'convattn' and 'backbone' in kwargs:
        kwargs['backbone'] = str(ModelSource.parse(kwargs['backbone']).resolve())
    if weights is not None:
        kwargs['pretrained_cfg_overlay'] = {'file': str(weights), **kwargs.get('pretrained_cfg_overlay', {})}
    elif pretrained and 'pretrained_cfg_overlay' not in kwargs:
        start = kwargs.get('backbone', source) if source.name == 'convattn' else source
        fetched = _fetch_start(ModelSource.parse(start))
        weights = fetched if source.name is None else None  # those of timm's own names need no check
    try:
        try:
            model: nn.Module = timm.create_model(str(source), pretrained=pretrained, img_size=img_size, **kwargs)
        except TypeError as error:
            if "'img_size'" not in str(error):
                raise
            model = timm.create_model(str(source), pretrained=pretrained, **kwargs)  # accepts any size
        if weights is not None:
            check_weights(weights, model, str(source))
    except InputError:
        raise
    except Exception as error:  # an unknown configuration can raise anything within timm
        raise InputError(f'{source} could not be created ({type(error).__name__}: {error}).') from error
    return model


def _fetch_start(source: ModelSource) -> Path | None:
    try:
        return fetch_weights(source)
    except InputError as error:
        if source.name is None:
            raise
        raise InputError(f'{error} Or start from random weights with --no-pretrained.') from None


def load_model(source: Source) -> nn.Module:
    """Load a trained model.

    Args:
        source: Any spelling of `ModelSource`.

    Raises:
        InputError: If there is no such model, it is not trained, or its weights cannot be loaded.
    """
    source = ModelSource.parse(source).resolve()
    architecture = (source.name or '').split('.')[0]
    if architecture in timm.list_models(module=MODULES):
        raise InputError(
            f'{source} is not trained: it only has the weights of its backbone, to start from. Train it on crops '
            f'(train_scripts/finetune.py --model {architecture} --data CROPS), then give runs/NAME.'
        )
    check_pretrained(source)
    return create_model(source, pretrained=True)


def check_pretrained(source: ModelSource) -> None:
    """Check that a named model has weights.

    Raises:
        InputError: If it has none.
    """
    if source.name is not None and not timm.is_model_pretrained(source.name):
        raise InputError(f'{source} has no weights. Give a model that has, local-dir:FOLDER or hf-hub:OWNER/NAME.')
