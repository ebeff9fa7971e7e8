"""Contributions of the two paths of the last convolution-attention block to a logit.

The head is a global average pool and a linear layer: a logit is the bias plus the sum over the channels of the pooled
map, each multiplied by its weight. The first channels of the block are those of the convolutional path, the others
those of the attention (Eq. 6 and 7), so that the sum splits into the two paths exactly.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn

from timm_convattn.explain.model import ForwardPass, linear_classifier
from timm_convattn.layers import ConvAttn

__all__ = ['Contributions', 'split_logits']


@dataclass(frozen=True)
class Contributions:
    """Terms that sum to a logit, or to the difference of two."""

    conv: float
    """Channels of the convolutional path."""
    attention: float
    """Channels of the attention path."""
    bias: float
    """Bias of the classifier."""

    @property
    def total(self) -> float:
        """Sum of the three."""
        return self.conv + self.attention + self.bias

    def __sub__(self, other: 'Contributions') -> 'Contributions':
        return Contributions(self.conv - other.conv, self.attention - other.attention, self.bias - other.bias)


def split_logits(model: nn.Module, forward: ForwardPass) -> list[Contributions] | None:
    """Split the logit of each class, in float64.

    Args:
        model: The model.
        forward: Its forward pass for one image.

    Returns:
        None if a logit is no such sum: the last map is not the output of a block (a plain network, a block in an
        earlier stage, attention inside convolutions), or the head is not a pool and a linear layer.
    """
    block, classifier = _last_block(forward.maps[-1].layer), linear_classifier(model)
    if block is None or classifier is None or forward.classifier_input is None:
        return None
    if classifier.in_features != block.num_features:
        return None
    with torch.no_grad():
        terms = classifier.weight.double() * forward.classifier_input.double()  # num_classes, num_features
        conv, attention = terms[:, : block.dim_out].sum(1), terms[:, block.dim_out :].sum(1)
        bias = torch.zeros_like(conv) if classifier.bias is None else classifier.bias.double()
        return [Contributions(*parts) for parts in torch.stack([conv, attention, bias], dim=1).tolist()]


def _last_block(layer: nn.Module) -> ConvAttn | None:
    """Return the block whose output is that of `layer`, None if there is none."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    return layer if isinstance(layer, ConvAttn) else None
