"""The model families; importing this package registers their models with timm."""

from timm_convattn.models.aresnet import AAResNet, AResNet
from timm_convattn.models.avgg import AAVgg, AVgg, PooledVgg
from timm_convattn.models.convattn import ConvAttnNet

__all__ = ['MODULES', 'AAResNet', 'AAVgg', 'AResNet', 'AVgg', 'ConvAttnNet', 'PooledVgg']

MODULES = ['aresnet', 'avgg', 'convattn']  # the names of this package's modules in timm's registry
