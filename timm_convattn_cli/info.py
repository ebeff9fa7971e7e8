"""`timm-convattn info`: one model, apart from its weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from timm_convattn_cli.commands import Info
from timm_convattn_cli.models import read_models, weights_source
from timm_convattn_cli.text import format_table, giga, millions, size

if TYPE_CHECKING:
    from timm_convattn.description import Attention, ModelDescription

__all__ = ['Record', 'build_record', 'read_record', 'run']

INPUT = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')


class Rejection(TypedDict):
    temperature: float
    held_out: int
    right: int


Record = TypedDict(
    'Record',
    {
        'model': str,
        'architecture': str,
        'class': str,
        'input': dict[str, Any],
        'num_classes': int,
        'class_names': list[str] | None,
        'weights': str,
        'rejection': Rejection | None,
        'parameters': int,
        'macs': dict[str, int | None],
        'stages': list[dict[str, str | int]],
        'attention': 'list[Attention]',
    },
)


def run(options: Info) -> int:
    """Print a model."""
    record = read_record(options.model) or build_record(options.model)
    print(json.dumps(record, indent=2) if options.json else format_record(record))
    return 0


def read_record(name: str) -> Record | None:
    """Read the record of a model of this package or of a saved one, without building the model.

    Returns:
        None if this takes more: for models of timm and of the Hub, folders without a description of the network
        (version 0.1.0 saved none), and whatever is invalid, which `build_record` reports.
    """
    ours = read_models()
    if name in ours:
        return _record(name, *ours[name], None)
    if ':' not in name and '/' not in Path(name).as_posix():  # may be the name of a model of timm
        return None
    try:
        path = Path(name.removeprefix('local-dir:'))
        folder = next(found for found in (path, path / 'model') if (found / 'config.json').is_file())
        return _record(
            f'local-dir:{folder}', json.loads((folder / 'config.json').read_text()), _file(folder), _rejection(folder)
        )
    except (StopIteration, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def build_record(name: str) -> Record:
    """Build a model without memory for its weights, and return its record.

    Raises:
        InputError: If there is no such model, or it cannot be built.
    """
    from timm_convattn.description import describe_model
    from timm_convattn.factory import create_model
    from timm_convattn.hub.loading import find_rejection
    from timm_convattn.model_source import ModelSource

    source = ModelSource.parse(name).resolve()
    found = find_rejection(source)
    rejection: Rejection | None = None
    if found is not None:
        rejection = {'temperature': found.temperature, 'held_out': len(found.hits), 'right': int(found.hits.sum())}
    if source.folder is not None:
        weights = _file(source.folder)
    else:
        weights = weights_source(source.name) if source.name else f'{source.pinned_id} on the Hub'
    return _record(str(source), describe_model(create_model(source, device='meta')), weights, rejection)


def _record(name: str, model: 'ModelDescription', weights: str, rejection: Rejection | None) -> Record:
    network, num_classes, names = model['network'], model['num_classes'], model.get('label_names')
    is_valid = isinstance(names, list | tuple) and all(isinstance(label, str) for label in names)
    return {
        'model': name,
        'architecture': model['architecture'],
        'class': network['class'],
        'input': {key: model['pretrained_cfg'][key] for key in INPUT},
        'num_classes': num_classes,
        'class_names': list(names) if names and is_valid and len(names) == num_classes else None,
        'weights': weights,
        'rejection': rejection,
        'parameters': network['parameters'],
        'macs': network['macs'],
        'stages': network['stages'],
        'attention': network['attention'],
    }


def _file(folder: Path) -> str:
    path = folder / 'model.safetensors'
    return f'{path} ({path.stat().st_size / 1e6:,.1f} MB)' if path.is_file() else f'none: there is no {path}'


def _rejection(folder: Path) -> Rejection | None:
    path = folder / 'rejection.json'
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    hits = content['held_out']['hit']
    return {'temperature': content['temperature'], 'held_out': len(hits), 'right': sum(hits)}


def format_record(record: Record) -> str:
    """Return a record as text for a terminal."""
    used, names = record['input'], record['class_names']
    channels, height, width = used['input_size']
    classes = f'{record["num_classes"]}' + (f': {", ".join(names)}' if names else ', without names')
    if record['num_classes'] == 0:
        classes = 'none: the output is features'
    lines = [
        ('model', f'{record["model"]} ({record["architecture"]}, {record["class"]})'),
        ('input', f'{size(height, width)} pixels, {"grey" if channels == 1 else f"{channels} channels"}'),
        ('', f'{used["interpolation"]}, crop_pct {used["crop_pct"]}, crop_mode {used["crop_mode"]}'),
        ('', f'mean {_numbers(used["mean"])}, std {_numbers(used["std"])}'),
        ('classes', classes),
        ('weights', record['weights']),
        ('rejection', _format_rejection(record)),
        ('parameters', millions(record['parameters'])),
        ('GMACs', ', '.join(f'{giga(macs)} at {where}' for where, macs in record['macs'].items())),
    ]
    parts = ['\n'.join(f'{title:12}{value}' for title, value in lines)]
    if record['stages']:
        stages = [(str(stage['module']), str(stage['num_chs']), str(stage['reduction'])) for stage in record['stages']]
        parts.append(format_table(('feature map', 'channels', 'reduction'), stages, right=(1, 2)))
    layers = [
        (
            layer['layer'],
            *(str(layer[key]) for key in ('num_heads', 'dim_qk', 'dim_v')),
            size(*layer['feat_size']) if layer['feat_size'] else 'no positions',
        )
        for layer in record['attention']
    ]
    header = ('attention', 'heads', 'query, key width', 'value width', 'built for maps of')
    parts.append(format_table(header, layers, right=(1, 2, 3)) if layers else 'no attention layer of this package')
    return '\n\n'.join(parts)


def _numbers(values: list[float]) -> str:
    return ' '.join(f'{value:g}' for value in values)


def _format_rejection(record: Record) -> str:
    if ':' not in record['model']:
        return 'no: it is not trained on crops'
    found = record['rejection']
    if found is None:
        return 'no: it was trained without --hold-out'
    return (
        f'yes (predict --reject-at): temperature {found["temperature"]:.2f}, {found["right"]:,} of '
        f'{found["held_out"]:,} held-out crops correct'
    )
