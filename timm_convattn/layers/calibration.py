"""Batch norms of fresh blocks, set to the statistics of data so that the first training step keeps a pretrained start.

A fresh batch norm is identity in eval mode, but in train mode it removes the mean and the scale that the pretrained
layers after it expect. With weight and bias set to the standard deviation and the mean of its input, it is identity in
both modes. The paper does not state how its batch norms are initialized.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn

from timm_convattn.layers.conv_attn import ConvAttn, Transition

__all__ = ['calibrate_norms']


@torch.no_grad()
def calibrate_norms(model: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Make the fresh batch norms of blocks and transitions the identity in train mode as well.

    The attention's channels, which no pretrained layer reads, are normalised as by any fresh batch norm. Batch norms
    that have been trained are left unchanged: a second call, or a call on a trained model, does nothing.

    Args:
        model: A model, or part of one, with pretrained weights and blocks of this package.
        batches: The first training batches, each (B, in_chans, H, W) on the model's device. A few hundred images are
            enough.

    Returns:
        Number of batch norms that were set.

    Raises:
        ValueError: If there are batch norms to set, but `batches` is empty.
    """
    channels_kept = {norm: kept for norm, kept in _norms(model) if _is_fresh(norm)}
    if not channels_kept:
        return 0
    moments: dict[nn.Module, list[torch.Tensor]] = {norm: [] for norm in channels_kept}

    def measure(norm: nn.Module, args: tuple[torch.Tensor]) -> None:
        var_mean = torch.var_mean(args[0].float(), dim=(0, 2, 3), correction=0)
        moments[norm].append(torch.stack(var_mean))

    hooks = [norm.register_forward_pre_hook(measure) for norm in channels_kept]
    try:
        with _train_mode_but_for(model, channels_kept):
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, kept in channels_kept.items():
        if not moments[norm]:
            raise ValueError('There is no batch to take the statistics from, wanted at least one.')
        var, mean = torch.stack(moments[norm]).mean(0)
        for buffer, value in ((norm.running_var, var), (norm.running_mean, mean)):
            if buffer is not None:
                buffer.copy_(value)  # copied in place, because safetensors drops tensors that share memory
        norm.weight[:kept] = (var + norm.eps).sqrt()[:kept]
        norm.weight[kept:] = 1
        norm.bias[:kept] = mean[:kept]
    return len(channels_kept)


def _norms(model: nn.Module) -> Iterator[tuple[nn.BatchNorm2d, int]]:
    """Yield the batch norms of blocks and transitions, each with the number of channels that pretrained layers read."""
    for module in model.modules():
        if isinstance(module, ConvAttn) and isinstance(module.norm, nn.BatchNorm2d):
            yield module.norm, module.dim_out
        elif isinstance(module, Transition) and isinstance(module.bn, nn.BatchNorm2d):
            yield module.bn, module.bn.num_features


def _is_fresh(norm: nn.BatchNorm2d) -> bool:
    start = nn.BatchNorm2d(norm.num_features, device=norm.weight.device, dtype=norm.weight.dtype).state_dict()
    found = norm.state_dict()
    return all(torch.equal(found[key], start[key]) for key in ('bias', 'running_mean', 'running_var') if key in found)


@contextmanager
def _train_mode_but_for(model: nn.Module, norms: Iterable[nn.Module]) -> Iterator[None]:
    """Put a model in train mode, except for some modules, and restore all modes and buffers afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    model.train()
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in buffers.items():
            buffer.copy_(value)
