"""Checkpoints for augmented models: a backbone's, whose function is kept, or the model's own at any input size."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn

from timm_convattn.layers.aug_conv import AugConv2d
from timm_convattn.layers.conv_attn import added_parts
from timm_convattn.layers.rel_mha import RelMha2d, position_tables, resample_table

__all__ = ['StateDict', 'fit_checkpoint', 'pad_classifier']

StateDict = dict[str, torch.Tensor]


def fit_checkpoint(
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    from_backbone: Callable[[StateDict], StateDict],
    classifier: str,
) -> StateDict:
    """Convert a checkpoint to the entries that `model` loads, or refuse it.

    A checkpoint without any of the attention's parameters is a backbone's: `from_backbone` renames its entries, and the
    new parts keep their initial values, with which the model computes what the backbone computes. Position tables of
    another input size are resampled. Names are compared here, because timm does not compare them where the classifier
    is not used.

    Args:
        checkpoint: The entries, or a mapping that holds them under 'state_dict'.
        model: The model to be loaded.
        from_backbone: Renames a backbone's entries, and drops those that the model does not have.
        classifier: Name of the model's classifier, which a checkpoint may lack.

    Returns:
        The entries under the names of `model`.

    Raises:
        ValueError: If entries of the model are missing, there are entries that it does not have, or a position table
            has a shape that this model has at no input size.
    """
    found: StateDict = dict(checkpoint.get('state_dict', checkpoint))
    wanted: StateDict = model.state_dict()
    attention = tuple(f'{name}.' for name, module in model.named_modules() if isinstance(module, RelMha2d))
    if not any(key.startswith(attention) for key in found):
        added = tuple(added_parts(model))
        found = {key: value for key, value in wanted.items() if key.startswith(added)} | from_backbone(found)
        _keep_first_filters(found, model)
    for key in sorted(position_tables(model) & found.keys()):
        found[key] = _fit_table(key, found[key], wanted[key])
    _compare_names(found, wanted, f'{classifier}.')
    return found


def _fit_table(key: str, table: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Resample a position table of another input size, or refuse one of another attention."""
    width = wanted.shape[1]
    if table.ndim != 2 or len(table) % 2 == 0 or table.shape[1] != width:
        raise ValueError(
            f'The checkpoint does not fit this model: {key} is {tuple(table.shape)}, wanted (2 * size - 1, {width}) '
            'for some size of map. Give the num_heads and qk_ratio that the checkpoint was made with.'
        )
    return table if len(table) == len(wanted) else resample_table(table, len(wanted))


def _keep_first_filters(found: StateDict, model: nn.Module) -> None:
    """Cut the backbone's convolutions to the filters that the attention-augmented ones keep."""
    convs = [(name, len(module.weight)) for name, module in model.named_modules() if isinstance(module, AugConv2d)]
    for key, kept in [(f'{name}.{part}', kept) for name, kept in convs for part in ('weight', 'bias')]:
        if key in found:
            found[key] = found[key][:kept]


def pad_classifier(weight: torch.Tensor, num_features: int) -> torch.Tensor:
    """Pad a classifier's weight with zeros for the attention's channels.

    Args:
        weight: (num_classes, features of the backbone)
        num_features: Features of the augmented model, the backbone's first.

    Returns:
        (num_classes, num_features)
    """
    return torch.cat([weight, weight.new_zeros(weight.shape[0], num_features - weight.shape[1])], dim=1)


def _compare_names(found: StateDict, wanted: StateDict, ignored_prefix: str) -> None:
    """Refuse a checkpoint whose names, except the classifier's, differ from the model's."""
    missing = sorted(key for key in wanted.keys() - found.keys() if not key.startswith(ignored_prefix))
    foreign = sorted(key for key in found.keys() - wanted.keys() if not key.startswith(ignored_prefix))
    # an old checkpoint may lack batch norm's counter of batches, which only a momentum of None reads
    missing = [key for key in missing if not key.endswith('.num_batches_tracked')]
    if missing or foreign:
        parts = [
            f'{what} {", ".join(keys[:5])}{" ..." if len(keys) > 5 else ""} ({len(keys)} in all)'
            for what, keys in (('it lacks', missing), ('the model has no', foreign))
            if keys
        ]
        raise ValueError(
            f'The checkpoint does not fit this model: {"; ".join(parts)}. '
            'Give a checkpoint of this architecture or of its backbone.'
        )
