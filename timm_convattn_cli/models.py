"""`timm-convattn models`: the models and their cost."""

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from timm_convattn_cli.commands import Models
from timm_convattn_cli.text import format_table, giga, millions, size

if TYPE_CHECKING:
    from timm_convattn.description import ModelDescription

__all__ = ['ModelRow', 'build_description', 'find_models', 'read_models', 'run', 'weights_source']

TABLE = Path(__file__).with_name('models.json')  # models of this package, written by train_scripts/count_models.py
PAPER_SIZE = (60, 60)


@dataclass(frozen=True)
class ModelRow:
    """A model as `models` lists it."""

    model: str
    parameters: int
    img_size: tuple[int, int]
    """Native height and width, in pixels."""
    macs: int | None
    """Multiply-accumulates for an image of that size."""
    macs_small: int | None
    """The same at 60 x 60 pixels, None for a model that does not accept it."""
    weights: str


def run(options: Models) -> int:
    """Print the models that match the pattern."""
    if options.num_classes < 0:
        from timm_convattn.errors import InputError

        raise InputError(f'num_classes is {options.num_classes}, it must be at least 0.')
    models = find_models(options.pattern, options.timm, options.num_classes)
    rows = [_row(name, *found, options.num_classes) for name, found in models.items()]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    cells = [
        (row.model, millions(row.parameters), giga(row.macs), size(*row.img_size), giga(row.macs_small), row.weights)
        for row in rows
    ]
    print(format_table(('model', 'parameters', 'GMACs', 'at', f'at {size(*PAPER_SIZE)}', 'weights'), cells, (1, 2, 4)))
    return 0


def read_models() -> 'dict[str, tuple[ModelDescription, str]]':
    """Return the description of every model of this package and the source of its weights, by name."""
    return {name: (entry['description'], entry['weights']) for name, entry in json.loads(TABLE.read_text()).items()}


def find_models(pattern: str, include_timm: bool, num_classes: int) -> 'Mapping[str, tuple[ModelDescription, str]]':
    """Return description and source of the weights of the models whose name matches a pattern or contains it.

    Raises:
        InputError: If there are none.
    """
    pattern = pattern if any(char in pattern for char in '*?[') else f'*{pattern}*'
    ours = read_models()
    found = {name: ours[name] for name in fnmatch.filter(ours, pattern)}
    if found and not include_timm:
        return found
    import timm

    from timm_convattn.errors import InputError

    names = timm.list_models(pattern)
    if include_timm and names:
        return {n: ours[n] if n in ours else (build_description(n, num_classes), weights_source(n)) for n in names}
    hint = f' timm has {len(names)}: add --timm.' if names else ' Without a pattern all are listed.'
    raise InputError(f'No model {"" if include_timm else "of this package "}matches {pattern}.{hint}')


def _row(name: str, model: 'ModelDescription', weights: str, num_classes: int) -> ModelRow:
    """Return the row of a model, whose classifier is one linear layer, for another number of classes."""
    network, added = model['network'], num_classes - model['num_classes']
    height, width = model['pretrained_cfg']['input_size'][1:]
    native, small = (
        None if macs is None else macs + added * network['num_features']
        for macs in (network['macs'][size(height, width)], network['macs'][size(*PAPER_SIZE)])
    )
    parameters = network['parameters'] + added * (network['num_features'] + 1)
    return ModelRow(name, parameters, (height, width), native, small, weights)


def build_description(name: str, num_classes: int | None = None) -> 'ModelDescription':
    """Describe a registered model: build it without memory for its weights."""
    import timm

    from timm_convattn.description import describe_model

    kwargs: dict[str, int] = {} if num_classes is None else {'num_classes': num_classes}
    try:
        model = timm.create_model(name, device='meta', **kwargs)
    except (TypeError, NotImplementedError, RuntimeError):  # some of timm's models compute with data when built
        model = timm.create_model(name, **kwargs).to('meta')
    return describe_model(model)


def weights_source(name: str) -> str:
    """Return the source of the weights of a registered model, as text."""
    import timm

    from timm_convattn.models import MODULES

    if name.split('.')[0] == 'convattn':
        return "its backbone's"
    cfg: Any = timm.get_pretrained_cfg(name)
    source = cast(str, (cfg.hf_hub_id or cfg.url or '') if cfg else '')
    if not source:
        return 'none'
    return f"its backbone's: {source}" if name.split('.')[0] in timm.list_models(module=MODULES) else source
