"""What the two paths of the last convolutional-attentional form contribute to a logit.

The head is a global average pool and a linear layer: a logit is the sum over the channels of the pooled map, each times
its weight, and the bias. The form's first channels are those of the convolutional path, the others the attention's
(Eq. 6 and 7), so the sum falls into two parts, without any estimate.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn

from timm_convattn.explain.model import Run, linear_classifier
from timm_convattn.layers import ConvAttn

__all__ = ['Shares', 'split_logits']


@dataclass(frozen=True)
class Shares:
    """What sums to a logit, or to the difference of two."""

    conv: float
    """Of the channels of the convolutional path."""
    attention: float
    """Of the channels of the attention path."""
    bias: float
    """Of the classifier's bias."""

    @property
    def total(self) -> float:
        """Give the sum of the three."""
        return self.conv + self.attention + self.bias

    def __sub__(self, other: 'Shares') -> 'Shares':
        return Shares(self.conv - other.conv, self.attention - other.attention, self.bias - other.bias)


def split_logits(model: nn.Module, run: Run) -> list[Shares] | None:
    """Split the logit of each class, in float64.

    Args:
        model: The model.
        run: What was seen when it classified an image.

    Returns:
        None where a logit is no such sum: the last map is not a form's output (a plain network, a form at a lower
        stage, attention inside convolutions), or something else than a pool and a linear layer follows it.
    """
    form, classifier = _last_form(run.maps[-1].layer), linear_classifier(model)
    if form is None or classifier is None or run.classifier_input is None:
        return None
    if classifier.in_features != form.num_features:
        return None
    with torch.no_grad():
        terms = classifier.weight.double() * run.classifier_input.double()  # num_classes, num_features
        conv, attention = terms[:, : form.dim_out].sum(1), terms[:, form.dim_out :].sum(1)
        bias = torch.zeros_like(conv) if classifier.bias is None else classifier.bias.double()
        return [Shares(*parts) for parts in torch.stack([conv, attention, bias], dim=1).tolist()]


def _last_form(layer: nn.Module) -> ConvAttn | None:
    """Give the form whose output is that of a layer, None where there is none."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    return layer if isinstance(layer, ConvAttn) else None
