"""What the model families share: position tables built for an image size, and the defaults of timm's configurations."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from timm.models._input import update_model_input_size  # no public path in timm 1.0.31

from timm_convattn.layers.rel_mha import position_tables

__all__ = ['AttnModel', 'create_cfg']


class AttnModel:
    """Mixin of a model with position tables."""

    def _set_feat_size(self, img_size: tuple[int, int]) -> None:
        raise NotImplementedError

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Rebuild the position tables for another image size in pixels, by resampling the current ones."""
        self._set_feat_size(to_2tuple(img_size))
        update_model_input_size(self, img_size)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return the names of the position tables, which are embeddings that weight decay should skip."""
        return position_tables(cast(nn.Module, self))


def create_cfg(**kwargs: Any) -> Mapping[str, Any]:
    """Return the configuration of weights trained at 224 x 224 pixels on ImageNet, with changes."""
    return {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'license': 'apache-2.0',
        **kwargs,
    }
