"""Save models as folders in the Hub's format: safetensors weights, and a config.json from which timm rebuilds them."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import timm
import torch.nn as nn
from timm.models import save_for_hf

from timm_convattn.description import describe_network
from timm_convattn.files import write_json
from timm_convattn.models.config import Preprocessing

__all__ = ['save_model']

# entries that describe the pretrained checkpoint and are wrong for the fine-tuned model
INHERITED = (
    'tag',
    'origin_url',
    'paper_ids',
    'paper_name',
    'description',
    'notes',
    'license',
    'test_input_size',
    'test_crop_pct',
    'test_pool_size',
)


def save_model(model: nn.Module, folder: Path, class_names: Sequence[str], data_config: Preprocessing) -> None:
    """Save a model so that `timm.create_model('local-dir:<folder>', pretrained=True)` loads it.

    Args:
        model: A model that timm created.
        folder: The folder, created if it does not exist.
        class_names: Names of the classes, in the order of the logits.
        data_config: Preprocessing of its input as `timm.data.resolve_data_config` returns it: `input_size` (C, H, W),
            `interpolation`, `mean`, `std`, `crop_pct`, `crop_mode`.

    Raises:
        ValueError: If the number of names differs from the model's number of classes.
    """
    if len(class_names) != model.num_classes:
        raise ValueError(f'{len(class_names)} class names were given for a model of {model.num_classes} classes.')
    save_for_hf(
        model,
        str(folder),
        model_config={'label_names': list(class_names)},
        safe_serialization=True,
        data_config=data_config,
    )
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    for key in INHERITED:
        config['pretrained_cfg'].pop(key, None)
    # transformers passes num_classes itself; a second value is an error
    config.get('model_args', {}).pop('num_classes', None)
    # for `timm-convattn info`, which then need not build the model; some models of timm cannot be built on meta
    with contextlib.suppress(Exception):
        config['network'] = describe_network(timm.create_model(f'local-dir:{folder}', device='meta'))
    write_json(path, config)
