"""CNNs with convolution and relative attention in parallel, for low-resolution infrared images, as timm models.

Importing this package registers its models with timm:

    import timm
    import timm_convattn

    model = timm.create_model('aresnet50_relmha', num_classes=4)
"""

from timm_convattn.layers import AugConv2d, ConvAttn, ConvAttnStage, RelMha2d, calibrate_norms
from timm_convattn.models import AAResNet, AAVgg, AResNet, AVgg, ConvAttnNet, PooledVgg

__version__ = '0.2.0'

__all__ = [
    'AAResNet',
    'AAVgg',
    'AResNet',
    'AVgg',
    'AugConv2d',
    'ConvAttn',
    'ConvAttnNet',
    'ConvAttnStage',
    'PooledVgg',
    'RelMha2d',
    '__version__',
    'calibrate_norms',
]
