"""Models against their backbones, and against themselves in channels-last layout and compiled."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from benchmarks.measure import Measurements, Pair, compare, compare_values
from timm_convattn.complexity import measure_complexity
from timm_convattn.factory import create_model
from timm_convattn.results import Comparison

__all__ = ['SIZES', 'measure_models']

SIZES = {60: 32, 224: 4}  # side of the images in pixels -> images in a batch


class Network(NamedTuple):
    """A model and how it is prepared."""

    title: str
    name: str
    args: Mapping[str, Any] = {}
    prepare: Callable[[nn.Module], Any] = lambda model: model

    def create(self, device: str = 'cpu') -> Any:
        """Create it for the paper's four classes."""
        return self.prepare(create_model(self.name, num_classes=4, device=device, **self.args))


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def _compiled(model: nn.Module) -> Any:
    torch._dynamo.reset()  # otherwise compiled for the sizes of earlier models as well
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
) -> Measurements:
    """Compare a model with its backbone in multiply-accumulates and time, and with itself channels last and compiled.

    Training is a forward and a backward pass.

    Args:
        seconds: Duration of each comparison.
        augmented: The model, in any spelling of `ModelSource`.
        backbone: Its backbone.
        sizes: Side of the images in pixels -> images in a batch.
        compiled: Whether to measure the compiled model, which takes minutes.
    """
    plain, peer = Network(augmented, augmented), Network(backbone, backbone)
    lean = Network(f'{augmented} with transition_kernel=1', augmented, {'transition_kernel': 1})
    variants = [Network(f'{augmented}, channels last', augmented, prepare=_channels_last)]
    if compiled:
        variants.append(Network(f'{augmented}, compiled', augmented, prepare=_compiled))
    comparisons = []
    for size, batch in sizes.items():
        for network in (plain, lean):
            comparisons.append(_compare_costs(network, peer, size))
            comparisons += _compare_times(network, peer, size, batch, seconds)
        for network in variants:
            comparisons += _compare_times(network, plain, size, batch, seconds)
    return comparisons, []


def _compare_costs(network: Network, peer: Network, size: int) -> Comparison:
    ours, theirs = (measure_complexity(each.create('meta'), size).macs / 1e9 for each in (network, peer))
    return compare_values(f'{network.title}, {size} px', peer.title, ours, theirs, 'GMAC')


def _compare_times(network: Network, peer: Network, size: int, batch: int, seconds: float) -> list[Comparison]:
    """Time inference and training, in milliseconds per image."""

    def make(step: Callable[[nn.Module, torch.Tensor], None]) -> Pair:
        ours, theirs, images = network.create(), peer.create(), torch.randn(batch, 3, size, size)
        return lambda: step(ours, images), lambda: step(theirs, images)

    return [
        compare(
            f'{network.title}, {batch} images of {size} px, {what}',
            peer.title,
            lambda step=step: make(step),  # type: ignore[misc]
            seconds,
            rounds=1 if network.prepare is _compiled else 2,
            per=batch,
        )
        for what, step in STEPS.items()
    ]
