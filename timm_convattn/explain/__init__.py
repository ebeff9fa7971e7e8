"""Why a model decides as it does: where it attends, what its decision rests on, and which of its paths brings it.

Attention maps are measurements: they are the weights that the model computed with, and so are the parts of a logit,
which sum to it. Grad-CAM is an estimate. None of them says that a decision is right.
"""

from timm_convattn.explain.attention import AttentionMap, attention_maps
from timm_convattn.explain.decision import explain
from timm_convattn.explain.explanation import Explanation
from timm_convattn.explain.shares import Shares

__all__ = ['AttentionMap', 'Explanation', 'Shares', 'attention_maps', 'explain']
