"""Whole models beside their backbones, and beside themselves in another layout and compiled."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm
import torch
import torch.nn as nn

from timm_convattn.benchmarks.measure import Growth, Pair, Row, compare
from timm_convattn.complexity import measure_complexity

__all__ = ['SIZES', 'measure_models']

SIZES = {60: 32, 224: 4}  # side of the images in pixels -> images in a batch


class Network(NamedTuple):
    """A model and how it is run."""

    title: str
    name: str
    args: Mapping[str, Any] = {}
    way: Callable[[nn.Module], Any] = lambda model: model

    def create(self, device: str = 'cpu') -> Any:
        """Create it for the paper's four classes."""
        return self.way(timm.create_model(self.name, num_classes=4, device=device, **self.args))


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def _compiled(model: nn.Module) -> Any:
    torch._dynamo.reset()  # else it would be compiled for the sizes of earlier models, too
    return torch.compile(model, dynamic=False)


def _infer(model: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        model.eval()(images)


def _train(model: nn.Module, images: torch.Tensor) -> None:
    model.train()(images).sum().backward()
    model.zero_grad()


STEPS = {'inference': _infer, 'training': _train}


def measure_models(
    seconds: float,
    augmented: str = 'aresnet50_relmha',
    backbone: str = 'resnet50',
    sizes: Mapping[int, int] = SIZES,
    compiled: bool = True,
) -> tuple[list[Row], list[Growth]]:
    """Compare a model with its backbone in multiply-accumulates and time, and with itself in other ways to run it.

    Training is a pass forward and one backward.

    Args:
        seconds: How long each comparison takes.
        augmented: The model.
        backbone: What it augments.
        sizes: Side of the images in pixels -> images in a batch.
        compiled: Whether to compile it, too, which takes minutes.
    """
    plain, peer = Network(augmented, augmented), Network(backbone, backbone)
    lean = Network(f'{augmented} with transition_kernel=1', augmented, {'transition_kernel': 1})
    ways = [Network(f'{augmented}, channels last', augmented, way=_channels_last)]
    if compiled:
        ways.append(Network(f'{augmented}, compiled', augmented, way=_compiled))
    rows = []
    for size, batch in sizes.items():
        for network in (plain, lean):
            rows.append(_compare_costs(network, peer, size))
            rows += _compare_times(network, peer, size, batch, seconds)
        for network in ways:
            rows += _compare_times(network, plain, size, batch, seconds)
    return rows, []


def _compare_costs(network: Network, peer: Network, size: int) -> Row:
    """Count the multiply-accumulates of one image."""
    ours, theirs = (measure_complexity(each.create('meta'), size).macs / 1e9 for each in (network, peer))
    return Row(
        f'{network.title}, {size} px', peer.title, round(ours, 4), round(theirs, 4), 'GMAC', round(ours / theirs, 4)
    )


def _compare_times(network: Network, peer: Network, size: int, batch: int, seconds: float) -> list[Row]:
    """Time inference and training, in milliseconds for each image."""

    def make(step: Callable[[nn.Module, torch.Tensor], None]) -> Pair:
        ours, theirs, images = network.create(), peer.create(), torch.randn(batch, 3, size, size)
        return lambda: step(ours, images), lambda: step(theirs, images)

    return [
        compare(
            f'{network.title}, {batch} images of {size} px, {what}',
            peer.title,
            lambda step=step: make(step),  # type: ignore[misc]
            seconds,
            rounds=1 if network.way is _compiled else 2,
            per=batch,
        )
        for what, step in STEPS.items()
    ]
