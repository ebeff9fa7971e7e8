"""Cards of models and data sets, rendered from results files by the templates next to this file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from timm_convattn.data.sources import EMBEDDED_SCENES
from timm_convattn.errors import InputError
from timm_convattn.models import MODULES

__all__ = ['Origin', 'dataset_card', 'model_card', 'weights_origin']

TEMPLATES = Path(__file__).parent / 'templates'
NOT_IN_A_RECIPE = ('config', 'output', 'resume', 'push_to_hub')
SMALL_GROUP = 20  # crops below which an accuracy says little

FLIR_TERMS = """\
If these are crops of the FLIR ADAS data set: Teledyne FLIR gives it away for research after a form on its web site,
and forbids to pass it on. Keep this repository private, and let others build the same crops from their own copy.
Frames of another origin have terms of their own, which hold for their crops as well."""
SCENES_TERMS = 'Drawn by timm-convattn, under its licence (Apache-2.0).'


class Origin(NamedTuple):
    """Where the weights of a run started."""

    sentence: str
    base_model: str | None
    license: str | None


def weights_origin(options: Mapping[str, Any]) -> Origin:
    """Say where a run's weights started, by its options.

    Args:
        options: The run's options by name (`training.config` of its results).
    """
    source = options['init_from']
    if source is not None:
        found = re.fullmatch(r'hf[-_]hub:([^@]+)(@.+)?', source)
        return (
            Origin(f'the weights `{source}`', found[1], None) if found else Origin('those of another run', None, None)
        )
    if not options['pretrained']:
        return Origin('random weights', None, None)
    arguments = dict(pair.split('=', 1) for pair in options['model_args'])
    if 'pretrained_cfg_overlay' in arguments:
        return Origin('weights given by hand', None, None)
    cfg = timm.get_pretrained_cfg(arguments.get('backbone', options['model']))
    if cfg is None or not cfg.hf_hub_id:
        return Origin('pretrained weights', None, None)
    return Origin(f'the weights `{cfg.hf_hub_id}`', cfg.hf_hub_id, cfg.license)


def model_card(
    record: Mapping[str, Any],
    repo_id: str | None = None,
    license: str | None = None,
    figure: str | None = None,
) -> str:
    """Render the card of a trained model.

    Args:
        record: The results of its run.
        repo_id: Where it is published, which its uses name; without, the card has none.
        license: Licence of the weights, as the Hub names it.
        figure: Where the picture of the confusion matrix is, seen from the card.

    Returns:
        Markdown with a YAML header.

    Raises:
        InputError: If the record is none of a finished run.
    """
    if missing := [part for part in ('model', 'data', 'metrics', 'environment', 'training') if part not in record]:
        raise InputError(f'The results lack {", ".join(missing)}: a card needs those of a finished run (results.json).')
    options = record['training']['config']
    data = {'origin': record['data']['source'], 'repo_id': None, **record['data']}  # early results lack these
    architecture = record['model']['architecture']
    origin = weights_origin(options)
    data_name = data['repo_id'] or data['origin']
    name = repo_id.split('/')[-1] if repo_id else f'{architecture}, {data_name}'
    header = ModelCardData(
        library_name='timm',
        pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'timm-convattn', 'thermal', 'infrared'],
        license=license,
        datasets=[data['repo_id']] if data['repo_id'] else None,
        base_model=origin.base_model,
        metrics=['accuracy', 'f1', 'precision', 'recall'],
        model_name=name,
        eval_results=list(_eval_results(record['metrics'], data)),
    )
    hardware, versions = record['environment']['hardware'], record['environment']['versions']
    device = ', '.join(hardware['gpus']) or f'{hardware["threads"]} threads of {hardware["cpu"]}'
    height, width = record['model']['input']['input_size'][1:]
    recipe = {key: value for key, value in options.items() if value is not None and key not in NOT_IN_A_RECIPE}
    card = ModelCard.from_template(
        header,
        template_path=str(TEMPLATES / 'model_card.md.jinja'),
        record=record,
        title=name,
        about=(timm.models.model_entrypoint(architecture).__doc__ or architecture).strip().splitlines()[0],
        classes=', '.join(data['class_names']),
        size=f'{height} x {width}',
        drawn=data['origin'] == EMBEDDED_SCENES,
        imports=timm.models.is_model_in_modules(architecture, MODULES),
        repo_id=repo_id,
        mode='L' if record['model']['input']['input_size'][0] == 1 else 'RGB',
        data=f'[{data_name}](https://huggingface.co/datasets/{data_name})' if data['repo_id'] else data_name,
        training_crops=', '.join(f'{count:,} x {name}' for name, count in record['training']['crops'].items()),
        start=origin.sentence,
        hardware=f'{hardware["processes"]} x {device}' if hardware['processes'] > 1 else device,
        recipe=yaml.safe_dump(recipe, sort_keys=False),
        versions=', '.join(f'{package} {number}' for package, number in versions.items()),
        number=lambda value: '-' if value is None else f'{value:.4f}',
        side=_side,
        weaknesses=list(_weaknesses(record)),
        figure=figure,
    )
    return str(card.content).rstrip() + '\n'


def dataset_card(
    configurations: Mapping[str, Mapping[str, Any]],
    repo_id: str | None = None,
) -> str:
    """Render the card of a data set of crops.

    Args:
        configurations: What `crops.json` says, by the name of the configuration; the first is the default one. The
            shards of each lie in a folder of its name.
        repo_id: Where it is published, which its uses name; without, the card has none.

    Returns:
        Markdown with a YAML header from which `datasets` knows configurations and splits.
    """
    main = next(iter(configurations.values()))
    drawn = main['origin'] == EMBEDDED_SCENES
    total = sum(sum(counts.values()) for counts in main['counts'].values())
    header = DatasetCardData(
        pretty_name=f'Crops of {main["origin"]}',
        license='apache-2.0' if drawn else 'other',
        license_name=None if drawn else 'terms-of-the-frames',
        task_categories=['image-classification'],
        size_categories=[_size_category(total)],
        tags=['thermal', 'infrared', 'timm-convattn'],
        configs=[
            {
                'config_name': name,
                **({'default': True} if crops is main else {}),
                'data_files': [
                    {'split': split, 'path': f'{name}/{split}-*.parquet'}
                    for split, counts in crops['counts'].items()
                    if sum(counts.values())
                ],
            }
            for name, crops in configurations.items()
        ],
    )
    card = DatasetCard.from_template(
        header,
        template_path=str(TEMPLATES / 'dataset_card.md.jinja'),
        title=repo_id.split('/')[-1] if repo_id else f'Crops of {main["origin"]}',
        origin=main['origin'],
        drawn=drawn,
        repo_id=repo_id,
        configurations=configurations,
        layout=main['layout'],
        options=' '.join(_as_option(key, value) for key, value in main['options'].items()),
        dropped=main['dropped'],
        terms=SCENES_TERMS if drawn else FLIR_TERMS,
    )
    return str(card.content).rstrip() + '\n'


def _eval_results(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Give every number of the metrics as the Hub's model-index has it."""
    named = [
        ('accuracy', 'Accuracy', metrics['accuracy']),
        ('f1', 'Macro F1', metrics['macro_f1']),
        ('f1', 'Weighted F1', metrics['weighted_f1']),
        ('loss', 'Cross entropy', metrics['loss']),
    ]
    for class_name, scores in metrics['per_class'].items():
        named += [(kind, f'{kind.capitalize()} ({class_name})', scores[kind]) for kind in ('precision', 'recall', 'f1')]
    for kind, name, value in named:
        if value is not None:
            yield EvalResult(
                task_type='image-classification',
                dataset_type=data['repo_id'] or re.sub(r'[^a-z0-9]+', '-', data['origin'].lower()).strip('-'),
                dataset_name=data['origin'],
                dataset_split=data['split'],
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 6),
            )


def _weaknesses(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what the results show that a user should not expect."""
    metrics, crops = record['metrics'], record['training']['crops']
    known = {name: scores for name, scores in metrics['per_class'].items() if scores['support']}
    worst = min(known, key=lambda name: known[name]['f1'])
    scores = known[worst]
    yield f'It knows {worst} worst: recall {scores["recall"]:.4f}, precision {scores["precision"]:.4f}.'
    rarest, total = min(crops, key=lambda name: crops[name]), sum(crops.values())
    yield f'It has seen {rarest} least: {crops[rarest]:,} of {total:,} crops in training, {crops[rarest] / total:.1%}.'
    if metrics['absent_classes']:
        yield f'How well it knows {", ".join(metrics["absent_classes"])} is not known: no crop of that was evaluated.'
    groups = [group for group in metrics.get('by_size', []) if group['num_samples'] >= SMALL_GROUP]
    if len(groups) > 1 and groups[0]['accuracy'] < groups[-1]['accuracy']:
        small, large = groups[0], groups[-1]
        yield (
            f'Small crops: accuracy {small["accuracy"]:.4f} where the side is {_side(small)}, '
            f'{large["accuracy"]:.4f} where it is {_side(large)}.'
        )
    yield 'Other cameras: another lens, gain, height or season than that of its training was not measured.'


def _side(group: Mapping[str, Any]) -> str:
    if group['to_side'] is None:
        return f'{group["from_side"]} pixels or more'
    return f'{group["from_side"]} to {group["to_side"]} pixels'


def _as_option(key: str, value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return f'--{key.replace("_", "-")} {" ".join(map(str, values))}'


def _size_category(total: int) -> str:
    for limit, name in ((1_000, 'n<1K'), (10_000, '1K<n<10K'), (100_000, '10K<n<100K')):
        if total < limit:
            return name
    return '100K<n<1M'
