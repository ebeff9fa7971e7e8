"""Explanations of a model's decision: attention maps, Grad-CAM, and the contributions of the two paths to the logits.

Attention maps are the weights that the model computed with, and the contributions sum exactly to a logit: both are
measurements. Grad-CAM is an estimate. None of them shows that a decision is right.
"""

import importlib.util
from typing import TYPE_CHECKING

from timm_convattn.errors import InputError
from timm_convattn.explain.attention import AttentionMap, attention_maps
from timm_convattn.explain.contributions import Contributions
from timm_convattn.explain.decision import explain
from timm_convattn.explain.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['AttentionMap', 'Contributions', 'Explanation', 'attention_maps', 'draw_explanation', 'explain']


def draw_explanation(explanation: Explanation) -> 'Figure':
    """Draw the input image, all maps over it, the probabilities and the contributions.

    Raises:
        InputError: If matplotlib is not installed.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise InputError("A figure needs matplotlib: pip install 'timm-convattn[explain]'.")
    from timm_convattn.explain.drawing import draw_figure

    return draw_figure(explanation)
