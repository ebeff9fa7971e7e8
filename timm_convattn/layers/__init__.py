"""The attention, the convolution-attention block and the stage built from them."""

from timm_convattn.layers.aug_conv import AugConv2d
from timm_convattn.layers.calibration import calibrate_norms
from timm_convattn.layers.conv_attn import ConvAttn, ConvAttnStage
from timm_convattn.layers.rel_mha import RelMha2d

__all__ = ['AugConv2d', 'ConvAttn', 'ConvAttnStage', 'RelMha2d', 'calibrate_norms']
