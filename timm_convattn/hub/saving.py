"""Models as folders in the Hub's form: weights as safetensors, and a config.json from which timm rebuilds the model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn as nn
from timm.models import save_for_hf

from timm_convattn.files import write_json

__all__ = ['save_model']

# what a configuration says of the checkpoint that a model started from, and what is not true of the fine-tuned one
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


def save_model(model: nn.Module, folder: Path, class_names: Sequence[str], data_config: dict[str, Any]) -> None:
    """Write a model so that `timm.create_model('local-dir:<folder>', pretrained=True)` gives it back.

    Args:
        model: A model that timm created.
        folder: The folder, which is created where it does not exist.
        class_names: Names of the classes, in the order of the logits.
        data_config: How its input is made: `input_size` (C, H, W), `interpolation`, `mean`, `std`, `crop_pct`,
            `crop_mode`, as timm's `resolve_data_config` gives them.

    Raises:
        ValueError: If the number of names is not the number of the model's classes.
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
    # transformers passes the number of classes itself, and a second one is an error
    config.get('model_args', {}).pop('num_classes', None)
    write_json(path, config)
