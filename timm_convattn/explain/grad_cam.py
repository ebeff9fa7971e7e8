"""Grad-CAM by the library grad-cam ("Grad-CAM: Visual Explanations from Deep Networks", arXiv:1610.02391).

The map is the last one with at least 4 positions a side. At 224 pixels that is the last map, as in the Grad-CAM paper.
At 60 pixels the last map has 2 x 2 positions, too few to separate the centre of a crop from its border, and the map
before it is used, which both paths of the last stage read.
"""

import importlib.util
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn

from timm_convattn.explain.model import FeatureMap, evaluating, frozen

__all__ = ['choose_map', 'compute_grad_cam', 'has_grad_cam']

MIN_SIDE = 4  # positions


def has_grad_cam() -> bool:
    """Return whether the library is installed (extra: explain)."""
    return importlib.util.find_spec('pytorch_grad_cam') is not None


def choose_map(maps: Sequence[FeatureMap]) -> FeatureMap:
    """Return the last map with at least `MIN_SIDE` positions a side, or the finest if there is none."""
    fine = [feature_map for feature_map in maps if min(feature_map.feat_size) >= MIN_SIDE]
    return fine[-1] if fine else max(maps, key=lambda feature_map: min(feature_map.feat_size))


def compute_grad_cam(
    model: nn.Module, images: torch.Tensor, class_index: int, feature_map: FeatureMap
) -> npt.NDArray[np.float32]:
    """Estimate the evidence for a class at each pixel.

    Args:
        model: The model.
        images: (1, C, H, W), the model's input.
        class_index: Index of the class.
        feature_map: Feature map of the model that is weighted.

    Returns:
        (H, W), from 0 to 1 at the maximum; 0 everywhere if there is no evidence.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    transform = _to_channels_first if feature_map.channels_last else None
    # parameters may be frozen, and the caller may have disabled gradients: those of the image are enough
    with evaluating(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        with GradCAM(model, [feature_map.layer], transform) as grad_cam:
            maps = grad_cam(images, [ClassifierOutputTarget(class_index)])
    cam: npt.NDArray[np.float32] = maps[0]
    return cam


def _to_channels_first(maps: torch.Tensor) -> torch.Tensor:
    return maps.permute(0, 3, 1, 2)
