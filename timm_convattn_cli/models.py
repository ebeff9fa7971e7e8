"""`timm-convattn models`: what models there are, and what they cost."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, cast

import timm
import torch.nn as nn
import tyro

import timm_convattn  # noqa: F401  registers the models
from timm_convattn.complexity import measure_complexity
from timm_convattn.errors import InputError
from timm_convattn.models import MODULES
from timm_convattn.models.config import pretrained_cfg
from timm_convattn.tables import format_table
from timm_convattn.units import giga, millions, size

__all__ = ['Models', 'count_macs', 'parameters', 'weights_of']

SMALL = (60, 60)  # the paper's size


@dataclass(frozen=True)
class Models:
    """List models: parameters, multiply-accumulates, and where their weights come from.

    Nothing is loaded: models are counted without memory for their weights.

    $ timm-convattn models
    $ timm-convattn models aresnet50
    $ timm-convattn models 'vit_tiny*' --timm
    """

    pattern: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='[PATTERN]')]] = '*'
    """Part of a name, or a pattern with * and ?."""
    timm: bool = False
    """List timm's own models as well, not only those of this package."""
    num_classes: Annotated[int, tyro.conf.arg(metavar='N')] = 4
    """Classes that the models are built for."""
    json: bool = False
    """Print a JSON array."""

    def run(self) -> int:
        """Count and print."""
        if self.num_classes < 0:
            raise InputError(f'num_classes is {self.num_classes}, it must be at least 0.')
        rows = [describe_model(name, self.num_classes) for name in find_models(self.pattern, self.timm)]
        if self.json:
            print(json.dumps([asdict(row) for row in rows], indent=2))
            return 0
        header = ('model', 'parameters', 'GMACs', 'at', f'at {size(*SMALL)}', 'weights')
        cells = [
            (
                row.model,
                millions(row.parameters),
                giga(row.macs),
                size(*row.img_size),
                giga(row.macs_small),
                row.weights,
            )
            for row in rows
        ]
        print(format_table(header, cells, right=(1, 2, 4)))
        return 0


@dataclass(frozen=True)
class ModelRow:
    """What there is to say of a model before it is loaded."""

    model: str
    parameters: int
    img_size: tuple[int, int]
    """The size that it is made for, in pixels."""
    macs: int | None
    """Multiply-accumulates for an image of that size."""
    macs_small: int | None
    """The same for one of 60 x 60; None where it does not take that."""
    weights: str


def find_models(pattern: str, of_timm: bool) -> list[str]:
    """Find the models that match a pattern, or have it in their name.

    Raises:
        InputError: If there are none.
    """
    pattern = pattern if any(char in pattern for char in '*?[') else f'*{pattern}*'
    names: list[str] = timm.list_models(pattern, module='' if of_timm else MODULES)
    if not names:
        others = [] if of_timm else timm.list_models(pattern)
        hint = f' timm has {len(others)}: give --timm.' if others else ' Without a pattern all are listed.'
        raise InputError(f'No model {"" if of_timm else "of this package "}matches {pattern}.{hint}')
    return names


def describe_model(name: str, num_classes: int) -> ModelRow:
    """Build a model without memory for its weights and count."""
    try:
        model = timm.create_model(name, num_classes=num_classes, device='meta')
    except (TypeError, NotImplementedError, RuntimeError):  # some of timm's need data while they are built
        model = timm.create_model(name, num_classes=num_classes)
        model.to('meta')
    height, width = pretrained_cfg(model)['input_size'][1:]
    return ModelRow(
        name,
        parameters(model),
        (height, width),
        count_macs(model, (height, width)),
        count_macs(model, SMALL),
        weights_of(name),
    )


def parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, img_size: Sequence[int]) -> int | None:
    """Count multiply-accumulates for one image, None where the model does not take the size.

    Args:
        model: On the meta device.
        img_size: Height and width, in pixels.
    """
    height, width = img_size
    try:
        return measure_complexity(model, (height, width)).macs
    except Exception:  # each model says in its own way that it does not take a size
        return None


def weights_of(name: str) -> str:
    """Say where the weights of a registered model come from."""
    ours = name.split('.')[0] in timm.list_models(module=MODULES)
    if name.split('.')[0] == 'convattn':
        return "its backbone's"
    cfg: Any = timm.get_pretrained_cfg(name)
    place = cast(str, (cfg.hf_hub_id or cfg.url or '') if cfg else '')
    if not place:
        return 'none'
    return f"its backbone's: {place}" if ours else place
