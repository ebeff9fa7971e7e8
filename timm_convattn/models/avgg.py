"""VGGs whose last stage is a convolution-attention block ("AVGG16" of the paper).

Paper: "Augmented CNN models with relative multi-head attention for target recognition in infrared images".
The backbones are timm's VGGs ("Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556).
"""

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn as nn
from timm.layers import ClassifierHead, get_norm_layer, to_2tuple
from timm.models import VGG, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vgg import cfgs as vgg_cfgs

from timm_convattn.layers import AugConv2d, ConvAttn
from timm_convattn.layers.conv_attn import split_attn_args
from timm_convattn.layers.rel_mha import FactoryArgs, RelMha2d
from timm_convattn.models._base import AttnModel, create_cfg
from timm_convattn.models._pretrained import StateDict, fit_checkpoint, pad_classifier

__all__ = ['AAVgg', 'AVgg', 'PooledVgg', 'checkpoint_filter_fn']

Model = TypeVar('Model', bound=nn.Module)


class PooledVgg(AttnModel, VGG):
    """A VGG whose head is a global average pool, dropout and a linear layer, not two wide layers on a 7x7 map.

    The paper compares its networks under one head (section 4.3): this is its plain VGG16, and the base class here.

    Args:
        cfg: Layers of the VGG: channels of a convolution, or 'M' for a max pool.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        norm_layer: Normalisation inside the VGG, none if None.
        global_pool: Type of the global pool.
        drop_rate: Dropout before the classifier.
        **kwargs: Whatever else `timm.models.VGG` takes.
    """

    if TYPE_CHECKING:  # at run time TorchScript would take the annotation for an interface
        features: nn.Sequential

    def __init__(
        self,
        cfg: list[Any],
        num_classes: int = 1000,
        in_chans: int = 3,
        norm_layer: Any = None,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        # tiny head, replaced below
        super().__init__(cfg, 0, in_chans, mlp_ratio=1 / 4096, norm_layer=norm_layer, **kwargs, **dd)
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.pre_logits = nn.Identity()
        self.stage5 = self.feature_ends[-3] + 2  # index of the first layer of stage 5
        self._set_head(self.feature_info[-1]['num_chs'], global_pool, **dd)

    def _set_head(self, num_features: int, global_pool: str, **dd: Any) -> None:
        self.num_features = num_features
        self.head = ClassifierHead(num_features, self.num_classes, global_pool, self.drop_rate, **dd)
        self.head_hidden_size = self.head.num_features

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature map of images of at least 32 x 32 pixels."""
        torch._assert(
            x.shape[-2] >= 32, 'The images are less than 32 pixels high, which a VGG cannot halve five times.'
        )
        torch._assert(
            x.shape[-1] >= 32, 'The images are less than 32 pixels wide, which a VGG cannot halve five times.'
        )
        x = self.features(x)
        return x

    def _set_feat_size(self, img_size: tuple[int, int]) -> None:
        for module in self.modules():
            if isinstance(module, RelMha2d):  # all attentions read a map of the size of stage 5's input
                module.set_feat_size(_stage5_size(img_size))


class AVgg(PooledVgg):
    """A VGG with the paper's stage 5 (Fig. 3): all its convolutions and its pool, in parallel to one attention.

    The last entry of `features` is a convolution-attention block (Eq. 6): its convolutional path is VGG's
    stage 5, its attention (Eq. 1 to 5) reads the output of stage 4 and is pooled 3x3 with stride 2 to the same size.

    Where the paper is silent: the head is timm's (global average pool, dropout, linear); without batch norm in the
    VGG, the one after the concatenation is the only one.

    Args:
        cfg: Layers of the VGG: channels of a convolution, or 'M' for a max pool.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        img_size: Height and width that the position tables are built for, in pixels. Other sizes are accepted as well.
        norm_layer: Normalisation inside the VGG (none in the paper); after the concatenation a batch norm by default.
        global_pool: Type of the global pool.
        **kwargs: Arguments of the attention of `timm_convattn.layers.ConvAttn` (`num_heads`, `qk_ratio`, `v_ratio`,
            `qkv_bias`, `rel_pos`, `attn_proj`, `attn_drop`, `proj_drop`), and whatever else `timm.models.VGG` takes.

    Raises:
        ValueError: If the ratios give widths that the heads cannot share equally.
        TypeError: If `kwargs` holds an unknown argument.
    """

    def __init__(
        self,
        cfg: list[Any],
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        norm_layer: Any = None,
        global_pool: str = 'avg',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        attn_args, kwargs = split_attn_args(kwargs)
        super().__init__(cfg, num_classes, in_chans, norm_layer, global_pool, **kwargs, **dd)
        dim, dim_out = self.feature_info[-3]['num_chs'], self.feature_info[-2]['num_chs']
        block = ConvAttn(
            nn.Sequential(*self.features[self.stage5 :]),
            dim=dim,
            dim_out=dim_out,
            feat_size=_stage5_size(img_size),
            stride=2,
            ceil=False,
            norm_layer=get_norm_layer(norm_layer) or nn.BatchNorm2d,
            **attn_args,
            **dd,
        )
        self.features = nn.Sequential(*self.features[: self.stage5], block)
        # the feature maps inside stage 5 are replaced by its input and the block's output
        self.feature_ends[-2:] = [self.stage5 - 1, self.stage5]
        self.feature_info[-2:] = [
            dict(num_chs=dim, reduction=16, module=f'features.{self.stage5 - 1}'),
            dict(num_chs=block.num_features, reduction=32, module=f'features.{self.stage5}'),
        ]
        self._set_head(block.num_features, global_pool, **dd)


class AAVgg(PooledVgg):
    """A VGG whose 3x3 convolutions of stage 5 are attention-augmented: the paper's baseline (Bello et al., 2019).

    Args:
        cfg: Layers of the VGG: channels of a convolution, or 'M' for a max pool.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        img_size: Height and width that the position tables are built for, in pixels. Other sizes are accepted as well.
        **kwargs: Arguments of the attention of `timm_convattn.layers.AugConv2d` (`num_heads`, `qk_ratio`, `v_ratio`,
            `qkv_bias`, `rel_pos`, `attn_proj`, `attn_drop`, `proj_drop`), and whatever else `timm.models.VGG` takes.

    Raises:
        ValueError: If the ratios give widths that the heads cannot share equally.
        TypeError: If `kwargs` holds an unknown argument.
    """

    def __init__(
        self,
        cfg: list[Any],
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        attn_args, kwargs = split_attn_args(kwargs)
        super().__init__(cfg, num_classes, in_chans, **kwargs, **dd)
        for index in range(self.stage5, len(self.features)):
            layer = self.features[index]
            if isinstance(layer, nn.Conv2d):
                self.features[index] = AugConv2d.in_place_of(layer, _stage5_size(img_size), **attn_args, **dd)


def _stage5_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the size of the map that enters stage 5: every max pool before it rounds down."""
    height, width = to_2tuple(img_size)
    if min(height, width) < 32:
        raise ValueError(
            f'img_size is {height} x {width}, a VGG halves it five times and needs 32 x 32 pixels or more.'
        )
    return height // 16, width // 16


def checkpoint_filter_fn(state_dict: StateDict, model: PooledVgg) -> StateDict:
    """Fit a checkpoint of this architecture, or of the plain VGG, to a model.

    The first filters are kept of a convolution that became attention-augmented; timm's two wide layers are dropped.

    Raises:
        ValueError: If the checkpoint does not fit.
    """

    def from_vgg(backbone: StateDict) -> StateDict:
        two_wide_layers = any(key.startswith('pre_logits.') for key in backbone)  # timm's head, which is dropped
        renamed = {}
        for key, value in backbone.items():
            part, index, *rest = key.split('.')
            if part != 'features' and two_wide_layers:
                continue
            if isinstance(model, AVgg) and part == 'features' and int(index) >= model.stage5:
                key = '.'.join([part, str(model.stage5), 'conv', str(int(index) - model.stage5), *rest])
            renamed[key] = pad_classifier(value, model.num_features) if key == 'head.fc.weight' else value
        return renamed

    return fit_checkpoint(state_dict, model, from_vgg, classifier='head.fc')


def _create(model_cls: type[Model], variant: str, pretrained: bool, **kwargs: Any) -> Model:
    """Build a model of this family: `[a[a]]vgg16[_bn]...` has the layers of `vgg16`."""
    name, *suffixes = variant.split('_')
    if 'bn' in suffixes:
        kwargs.setdefault('norm_layer', nn.BatchNorm2d)
    out_indices = kwargs.pop('out_indices', (0, 1, 2, 3, 4, 5))
    model: Model = build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        model_cfg=vgg_cfgs[name.lstrip('a')],
        feature_cfg=dict(flatten_sequential=True, out_indices=out_indices),
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )
    return model


# VGG's classifier reads VGG's head, which is dropped: these weights return features
_cfg = partial(create_cfg, num_classes=0, first_conv='features.0', classifier='head.fc', license='bsd-3-clause')

# The weights are the backbone's: after the filter the model computes what the backbone computes or, where convolutions
# are attention-augmented, keeps the backbone's first filters.
default_cfgs = generate_default_cfgs(
    {
        'avgg11_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg11.tv_in1k'),
        'avgg13_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg13.tv_in1k'),
        'avgg16_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg16.tv_in1k'),
        'avgg19_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg19.tv_in1k'),
        'avgg11_bn_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg11_bn.tv_in1k'),
        'avgg13_bn_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg13_bn.tv_in1k'),
        'avgg16_bn_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg16_bn.tv_in1k'),
        'avgg19_bn_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg19_bn.tv_in1k'),
        'aavgg11_bn.tv_in1k': _cfg(hf_hub_id='timm/vgg11_bn.tv_in1k'),
        'aavgg16.tv_in1k': _cfg(hf_hub_id='timm/vgg16.tv_in1k'),
        'vgg11_bn_gap.tv_in1k': _cfg(hf_hub_id='timm/vgg11_bn.tv_in1k'),
        'vgg16_gap.tv_in1k': _cfg(hf_hub_id='timm/vgg16.tv_in1k'),
    }
)


@register_model
def avgg11_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG11 with a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg11_relmha', pretrained, **kwargs)


@register_model
def avgg13_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG13 with a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg13_relmha', pretrained, **kwargs)


@register_model
def avgg16_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG16 with a convolution-attention block as stage 5: the paper's AVGG16 (Fig. 3)."""
    return _create(AVgg, 'avgg16_relmha', pretrained, **kwargs)


@register_model
def avgg19_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG19 with a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg19_relmha', pretrained, **kwargs)


@register_model
def avgg11_bn_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG11 with batch norm and a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg11_bn_relmha', pretrained, **kwargs)


@register_model
def avgg13_bn_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG13 with batch norm and a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg13_bn_relmha', pretrained, **kwargs)


@register_model
def avgg16_bn_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG16 with batch norm and a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg16_bn_relmha', pretrained, **kwargs)


@register_model
def avgg19_bn_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG19 with batch norm and a convolution-attention block as stage 5; not in the paper."""
    return _create(AVgg, 'avgg19_bn_relmha', pretrained, **kwargs)


@register_model
def aavgg11_bn(pretrained: bool = False, **kwargs: Any) -> AAVgg:
    """VGG11 with batch norm and attention-augmented convolutions in stage 5; not in the paper."""
    return _create(AAVgg, 'aavgg11_bn', pretrained, **kwargs)


@register_model
def aavgg16(pretrained: bool = False, **kwargs: Any) -> AAVgg:
    """VGG16 with attention-augmented convolutions in stage 5: the paper's baseline AAVGG16."""
    return _create(AAVgg, 'aavgg16', pretrained, **kwargs)


@register_model
def vgg11_bn_gap(pretrained: bool = False, **kwargs: Any) -> PooledVgg:
    """VGG11 with batch norm and the head of the other models here; not in the paper."""
    return _create(PooledVgg, 'vgg11_bn_gap', pretrained, **kwargs)


@register_model
def vgg16_gap(pretrained: bool = False, **kwargs: Any) -> PooledVgg:
    """VGG16 with the head of the other models here: the paper's baseline VGG16."""
    return _create(PooledVgg, 'vgg16_gap', pretrained, **kwargs)
