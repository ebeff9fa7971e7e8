"""Why a model decides as it does: where it attends, what its decision rests on, and which of its paths brings it.

Attention maps are measurements: they are the weights that the model computed with, and so are the parts of a logit,
which sum to it. Grad-CAM is an estimate. None of them says that a decision is right.
"""

import importlib.util
from typing import TYPE_CHECKING

from timm_convattn.errors import InputError
from timm_convattn.explain.attention import AttentionMap, attention_maps
from timm_convattn.explain.decision import explain
from timm_convattn.explain.explanation import Explanation
from timm_convattn.explain.shares import Shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['AttentionMap', 'Explanation', 'Shares', 'attention_maps', 'draw_explanation', 'explain']


def draw_explanation(explanation: Explanation) -> 'Figure':
    """Draw the picture, all maps over it, the probabilities and the shares.

    Raises:
        InputError: If matplotlib is not installed.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise InputError("A figure needs matplotlib: pip install 'timm-convattn[explain]'.")
    from timm_convattn.explain.drawing import draw_figure

    return draw_figure(explanation)
