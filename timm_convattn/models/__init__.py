"""The model families; importing this package registers their models with timm."""

from timm_convattn.models.aresnet import AResNet
from timm_convattn.models.avgg import AVgg

__all__ = ['AResNet', 'AVgg']
