"""Model and dataset cards, rendered from results files with the templates in `templates/`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from timm_convattn.config import Trait, options_with
from timm_convattn.data.sources import EMBEDDED_SCENES
from timm_convattn.environment import Environment
from timm_convattn.errors import InputError
from timm_convattn.model_source import ModelSource
from timm_convattn.models import MODULES
from timm_convattn.rejection import Rejection
from timm_convattn.results import Metrics, RunData, RunResults, SizeGroup, TrainingSummary

__all__ = ['Origin', 'dataset_card', 'model_card', 'weights_origin']

TEMPLATES = Path(__file__).parent / 'templates'
SMALL_GROUP = 20  # fewer crops than this give no meaningful accuracy

FLIR_TERMS = """\
If these are crops of the FLIR ADAS data set: Teledyne FLIR provides it for research on request and does not allow
redistribution. Keep this repository private, and let others build the same crops from their own copy. Frames from
other sources have their own terms, which also apply to their crops."""
SCENES_TERMS = 'Drawn by timm-convattn, licensed under Apache-2.0.'


class Origin(NamedTuple):
    """The weights that a run started from."""

    sentence: str
    base_model: str | None
    license: str | None


def weights_origin(options: Mapping[str, Any]) -> Origin:
    """Return the weights that a run started from.

    Args:
        options: The run's options by name (`training.config` in its results).
    """
    start = options['init_from']
    if start is None and not options['pretrained']:
        return Origin('random weights', None, None)
    arguments = dict(pair.split('=', 1) for pair in options['model_args'])
    if start is None and 'pretrained_cfg_overlay' in arguments:
        return Origin('weights from a file', None, None)
    source = ModelSource.parse(start or arguments.get('backbone', options['model']))
    if source.repo_id is not None:
        return Origin(f'the weights `{source}`', source.repo_id, None)
    if source.name is None:
        return Origin('those of another run', None, None)
    cfg = timm.get_pretrained_cfg(source.name)
    if cfg is None or not cfg.hf_hub_id:
        return Origin('pretrained weights', None, None)
    return Origin(f'the weights `{cfg.hf_hub_id}`', cfg.hf_hub_id, cfg.license)


def model_card(
    results: RunResults,
    repo_id: str | None = None,
    license: str | None = None,
    figure: str | None = None,
    rejection: Rejection | None = None,
) -> str:
    """Render the card of a trained model.

    Args:
        results: Results of its run.
        repo_id: Repository that the usage snippets name. None: the card has no usage section.
        license: Licence of the weights, as the Hub names it.
        figure: Path of the confusion matrix image, relative to the card.
        rejection: The model's calibration, if its run held crops out.

    Returns:
        Markdown with a YAML header.

    Raises:
        InputError: If the results are not those of a finished run.
    """
    if results.training is None:
        raise InputError('The results lack training. A card needs the results.json of a finished run.')
    data, architecture = results.data, results.model.architecture
    data_name = data.repo_id or data.origin
    origin = weights_origin(results.training.config)
    title = repo_id.split('/')[-1] if repo_id else f'{architecture}, {data_name}'
    channels, height, width = results.model.input['input_size']
    card = ModelCard.from_template(
        _model_header(results, title, license, origin),
        template_path=str(TEMPLATES / 'model_card.md.jinja'),
        results=results,
        title=title,
        about=(timm.models.model_entrypoint(architecture).__doc__ or architecture).strip().splitlines()[0],
        classes=', '.join(data.class_names),
        size=f'{height} x {width}',
        drawn=data.origin == EMBEDDED_SCENES,
        imports=timm.models.is_model_in_modules(architecture, MODULES),
        repo_id=repo_id,
        mode='L' if channels == 1 else 'RGB',
        data=f'[{data_name}](https://huggingface.co/datasets/{data_name})' if data.repo_id else data_name,
        start=origin.sentence,
        **_training_facts(results.environment, results.training),
        number=_number,
        side=_side,
        weaknesses=list(_weaknesses(results.metrics, results.training.crops)),
        figure=figure,
        rejection=rejection,
    )
    return str(card.content).rstrip() + '\n'


def _model_header(results: RunResults, name: str, license: str | None, origin: Origin) -> ModelCardData:
    return ModelCardData(
        library_name='timm',
        pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'timm-convattn', 'thermal', 'infrared'],
        license=license,
        datasets=[results.data.repo_id] if results.data.repo_id else None,
        base_model=origin.base_model,
        metrics=['accuracy', 'f1', 'precision', 'recall'],
        model_name=name,
        eval_results=list(_eval_results(results.metrics, results.data)),
    )


def _training_facts(environment: Environment, training: TrainingSummary) -> dict[str, str]:
    """Return what the card states about the training run, by the names that the template uses."""
    hardware = environment.hardware
    device = ', '.join(hardware.gpus) or f'{hardware.threads} threads of {hardware.cpu}'
    left_out = options_with(Trait.PER_CALL, Trait.UNPUBLISHED)
    recipe = {key: value for key, value in training.config.items() if value is not None and key not in left_out}
    return {
        'training_crops': ', '.join(f'{count:,} x {name}' for name, count in training.crops.items()),
        'hardware': f'{hardware.processes} x {device}' if hardware.processes > 1 else device,
        'recipe': yaml.safe_dump(recipe, sort_keys=False),
        'versions': ', '.join(f'{package} {number}' for package, number in environment.versions.items()),
    }


def dataset_card(configurations: Mapping[str, Mapping[str, Any]], repo_id: str | None = None) -> str:
    """Render the card of a dataset of crops.

    Args:
        configurations: Content of `crops.json` by configuration name, the default configuration first. The shards of
            each are in a folder of that name.
        repo_id: Repository that the usage snippets name. None: the card has no usage section.

    Returns:
        Markdown with a YAML header that lists configurations and splits for `datasets`.
    """
    main = next(iter(configurations.values()))
    drawn = main['origin'] == EMBEDDED_SCENES
    card = DatasetCard.from_template(
        _dataset_header(configurations, drawn),
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


def _dataset_header(configurations: Mapping[str, Mapping[str, Any]], drawn: bool) -> DatasetCardData:
    main = next(iter(configurations.values()))
    return DatasetCardData(
        pretty_name=f'Crops of {main["origin"]}',
        license='apache-2.0' if drawn else 'other',
        license_name=None if drawn else 'terms-of-the-frames',
        task_categories=['image-classification'],
        size_categories=[_size_category(sum(sum(counts.values()) for counts in main['counts'].values()))],
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


def _eval_results(metrics: Metrics, data: RunData) -> Iterator[EvalResult]:
    """Yield each metric as an entry of the Hub's model-index."""
    named = [
        ('accuracy', 'Accuracy', metrics.accuracy),
        ('f1', 'Macro F1', metrics.macro_f1),
        ('f1', 'Weighted F1', metrics.weighted_f1),
        ('loss', 'Cross entropy', metrics.loss),
    ]
    for name, scores in metrics.per_class.items():
        for kind in ('precision', 'recall', 'f1'):
            named.append((kind, f'{kind.capitalize()} ({name})', getattr(scores, kind)))
    for kind, name, value in named:
        if value is not None:
            yield EvalResult(
                task_type='image-classification',
                dataset_type=data.repo_id or re.sub(r'[^a-z0-9]+', '-', data.origin.lower()).strip('-'),
                dataset_name=data.origin,
                dataset_split=data.split,
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 6),
            )


def _weaknesses(metrics: Metrics, crops: Mapping[str, int]) -> Iterator[str]:
    """Yield what the results show a user should not rely on."""
    evaluated = {name: scores for name, scores in metrics.per_class.items() if scores.support}
    worst, scores = min(evaluated.items(), key=lambda item: item[1].f1 or 0.0)
    yield f'Lowest F1 score: {worst}, with recall {_number(scores.recall)} and precision {_number(scores.precision)}.'
    rarest, total = min(crops, key=lambda name: crops[name]), sum(crops.values())
    yield f'Rarest class in training: {rarest}, {crops[rarest]:,} of {total:,} crops, {crops[rarest] / total:.1%}.'
    if metrics.absent_classes:
        yield f'Not evaluated: {", ".join(metrics.absent_classes)}. The evaluation split has no such crops.'
    groups = [group for group in metrics.by_size or () if group.num_samples >= SMALL_GROUP]
    if len(groups) > 1:
        small, large = groups[0], groups[-1]
        if (small.accuracy or 0.0) < (large.accuracy or 0.0):
            yield (
                f'Small crops: accuracy {_number(small.accuracy)} for sides of {_side(small)}, '
                f'{_number(large.accuracy)} for sides of {_side(large)}.'
            )
    yield 'Other cameras: a lens, gain, height or season that differs from the training data was not measured.'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'


def _side(group: SizeGroup) -> str:
    if group.to_side is None:
        return f'{group.from_side} pixels or more'
    return f'{group.from_side} to {group.to_side} pixels'


def _as_option(key: str, value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return f'--{key.replace("_", "-")} {" ".join(map(str, values))}'


def _size_category(total: int) -> str:
    for limit, name in ((1_000, 'n<1K'), (10_000, '1K<n<10K'), (100_000, '10K<n<100K')):
        if total < limit:
            return name
    return '100K<n<1M'
