"""`timm-convattn info`: everything about one model but its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import timm
import torch.nn as nn
import tyro

from timm_convattn.factory import create_on_meta, full_name, label_names
from timm_convattn.hub.loading import WEIGHTS, find_rejection
from timm_convattn.layers import RelMha2d
from timm_convattn.models.config import model_data_config, pretrained_cfg
from timm_convattn.tables import format_table
from timm_convattn.units import giga, millions, size
from timm_convattn_cli.models import SMALL, count_macs, parameters, weights_of

__all__ = ['Info']


@dataclass(frozen=True)
class Info:
    """Show a model: its input, classes and costs, its stages, and where the attention sits.

    $ timm-convattn info aresnet50_relmha
    $ timm-convattn info runs/NAME
    $ timm-convattn info hf-hub:OWNER/NAME
    """

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='MODEL')]]
    """Name of a timm model, hf-hub:OWNER/NAME, local-dir:FOLDER, or the folder of a run."""
    json: bool = False
    """Print a JSON object."""

    def run(self) -> int:
        """Build the model without weights, and print."""
        record = describe(full_name(self.model))
        print(json.dumps(record, indent=2) if self.json else as_text(record))
        return 0


def describe(name: str) -> dict[str, Any]:
    """Say everything about a model but its weights, as plain values.

    Args:
        name: What timm knows it by.
    """
    model = create_on_meta(name)
    config = model_data_config(model)
    native = tuple(config['input_size'][1:])
    rejection = find_rejection(name)
    return {
        'model': name,
        'architecture': pretrained_cfg(model)['architecture'],
        'class': f'{type(model).__module__}.{type(model).__qualname__}',
        'input': {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        'num_classes': cast(Any, model).num_classes,
        'class_names': label_names(model),
        'weights': _weights(name),
        'rejection': None
        if rejection is None
        else {
            'temperature': rejection.temperature,
            'held_out': len(rejection.hits),
            'right': int(rejection.hits.sum()),
        },
        'parameters': parameters(model),
        'macs': {size(*where): count_macs(model, where) for where in dict.fromkeys((SMALL, native))},
        'stages': [dict(stage) for stage in getattr(model, 'feature_info', [])],
        'attention': _attentions(model),
    }


def _attentions(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {
            'layer': name,
            'num_heads': module.num_heads,
            'dim_qk': module.dim_qk,
            'dim_v': module.dim_out,
            'feat_size': [(len(module.height_rel) + 1) // 2, (len(module.width_rel) + 1) // 2]
            if module.rel_pos
            else None,
        }
        for name, module in model.named_modules()
        if isinstance(module, RelMha2d)
    ]


def _weights(name: str) -> str:
    source, _, place = name.rpartition(':')
    if source == 'local-dir':
        path = Path(place) / WEIGHTS
        return f'{path} ({path.stat().st_size / 1e6:,.1f} MB)' if path.is_file() else f'none: there is no {path}'
    if source:
        return f'{place} on the Hub'
    return weights_of(name) if timm.is_model_pretrained(name) else 'none'


def as_text(record: dict[str, Any]) -> str:
    """Write what `describe` gives for people."""
    used, names, rejection = record['input'], record['class_names'], record['rejection']
    channels, height, width = used['input_size']
    classes = f'{record["num_classes"]}' + (f': {", ".join(names)}' if names else ', without names')
    if record['num_classes'] == 0:
        classes = 'none: it gives features'
    lines = [
        ('model', f'{record["model"]} ({record["architecture"]}, {record["class"]})'),
        ('input', f'{size(height, width)} pixels, {"grey" if channels == 1 else f"{channels} channels"}'),
        ('', f'{used["interpolation"]}, crop_pct {used["crop_pct"]}, crop_mode {used.get("crop_mode", "center")}'),
        ('', f'mean {_numbers(used["mean"])}, std {_numbers(used["std"])}'),
        ('classes', classes),
        ('weights', record['weights']),
        ('rejection', _rejection(rejection) if ':' in record['model'] else 'no: it is not trained on crops'),
        ('parameters', millions(record['parameters'])),
        ('GMACs', ', '.join(f'{giga(macs)} at {where}' for where, macs in record['macs'].items())),
    ]
    text = '\n'.join(f'{title:12}{value}' for title, value in lines)
    if record['stages']:
        stages = [(stage['module'], str(stage['num_chs']), str(stage['reduction'])) for stage in record['stages']]
        text += '\n\n' + format_table(('feature map', 'channels', 'reduction'), stages, right=(1, 2))
    attentions = [
        (
            layer['layer'],
            str(layer['num_heads']),
            str(layer['dim_qk']),
            str(layer['dim_v']),
            size(*layer['feat_size']) if layer['feat_size'] else 'no positions',
        )
        for layer in record['attention']
    ]
    header = ('attention', 'heads', 'query, key width', 'value width', 'built for maps of')
    return text + '\n\n' + (format_table(header, attentions, right=(1, 2, 3)) if attentions else 'no attention of ours')


def _numbers(values: list[float]) -> str:
    return ' '.join(f'{value:g}' for value in values)


def _rejection(rejection: dict[str, Any] | None) -> str:
    if rejection is None:
        return 'no: it was trained without --hold-out'
    return (
        f'yes (predict --reject-at): temperature {rejection["temperature"]:.2f}, {rejection["right"]:,} of '
        f'{rejection["held_out"]:,} held-out crops right'
    )
