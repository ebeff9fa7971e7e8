"""ResNets whose last stage has convolution-attention blocks ("AResNet50" of the paper).

Paper: "Augmented CNN models with relative multi-head attention for target recognition in infrared images".
The backbones are timm's ResNets ("Deep Residual Learning for Image Recognition", arXiv:1512.03385).
"""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn as nn
from timm.layers import get_act_layer, get_norm_layer, to_2tuple
from timm.models import ResNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck

from timm_convattn.layers import AugConv2d, ConvAttnStage
from timm_convattn.layers.conv_attn import split_attn_args
from timm_convattn.layers.rel_mha import FactoryArgs
from timm_convattn.models._base import AttnModel, create_cfg
from timm_convattn.models._pretrained import StateDict, fit_checkpoint, pad_classifier

__all__ = ['AAResNet', 'AResNet', 'checkpoint_filter_fn']

Model = TypeVar('Model', bound=nn.Module)


class AResNet(AttnModel, ResNet):
    """A ResNet with the paper's stage 4 (Fig. 4): one convolution-attention block for each residual block.

    Every residual block is the convolutional path of such a block (Eq. 7: it adds X itself), in parallel to relative
    multi-head attention (Eq. 1 to 5). In the first one, whose residual block has stride 2, the attention's output is
    pooled 3x3 with stride 2. Between two of them a transition reduces the channels to the residual block's width.

    Where the paper is silent: the transition is convolution, batch norm, ReLU; the top is timm's (global average
    pool, dropout, linear); the new parts are initialized so that the model computes what the ResNet computes,
    except for a fresh classifier, with any weights of the ResNet.

    Args:
        block: Residual block.
        layers: Blocks of each stage.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        img_size: Height and width that the position tables are built for, in pixels. Other sizes are accepted as well.
        transition_kernel: Kernel size of the transitions: 3 in the paper, 1 has fewer parameters.
        act_layer: Activation.
        norm_layer: Normalisation.
        **kwargs: Arguments of the attention of `timm_convattn.layers.ConvAttn` (`num_heads`, `qk_ratio`, `v_ratio`,
            `qkv_bias`, `rel_pos`, `attn_proj`, `attn_drop`, `proj_drop`), and whatever else `timm.models.ResNet` takes.

    Raises:
        ValueError: If the ratios give widths that the heads cannot share equally.
        TypeError: If `kwargs` holds an unknown argument.
    """

    if TYPE_CHECKING:  # at run time TorchScript would take the annotation for an interface
        layer4: ConvAttnStage

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        transition_kernel: int = 3,
        act_layer: Any = nn.ReLU,
        norm_layer: Any = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        attn_args, kwargs = split_attn_args(kwargs)
        super().__init__(
            block, layers, num_classes, in_chans, act_layer=act_layer, norm_layer=norm_layer, **kwargs, **dd
        )
        stage3, stage4 = self.feature_info[-2:]
        self.layer4 = ConvAttnStage(
            self.layer4,
            dim=stage3['num_chs'],
            dim_out=stage4['num_chs'],
            feat_size=_stage3_size(self, img_size),
            stride=stage4['reduction'] // stage3['reduction'],
            transition_kernel=transition_kernel,
            norm_layer=get_norm_layer(norm_layer),
            act_layer=get_act_layer(act_layer),
            **attn_args,
            **dd,
        )
        self.num_features = stage4['num_chs'] = self.layer4.num_features
        self.reset_classifier(num_classes)

    def _set_feat_size(self, img_size: tuple[int, int]) -> None:
        self.layer4.set_feat_size(_stage3_size(self, img_size))


class AAResNet(AttnModel, ResNet):
    """A ResNet whose 3x3 convolutions of stage 4 are attention-augmented: the paper's baseline (Bello et al., 2019).

    In each block of stage 4 an `AugConv2d` of the same width replaces the 3x3 convolution: the only one of a bottleneck
    block, the first one of a basic block (which the paper does not use).

    Args:
        block: Residual block.
        layers: Blocks of each stage.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        img_size: Height and width that the position tables are built for, in pixels. Other sizes are accepted as well.
        **kwargs: Arguments of the attention of `timm_convattn.layers.AugConv2d` (`num_heads`, `qk_ratio`, `v_ratio`,
            `qkv_bias`, `rel_pos`, `attn_proj`, `attn_drop`, `proj_drop`), and whatever else `timm.models.ResNet` takes.

    Raises:
        ValueError: If the ratios give widths that the heads cannot share equally.
        TypeError: If `kwargs` holds an unknown argument.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        attn_args, kwargs = split_attn_args(kwargs)
        super().__init__(block, layers, num_classes, in_chans, **kwargs, **dd)
        self.augmented = 'conv2' if block is Bottleneck else 'conv1'  # name of each block's convolution
        size = _stage3_size(self, img_size)
        for residual in self.layer4:
            conv = AugConv2d.in_place_of(getattr(residual, self.augmented), size, **attn_args, **dd)
            nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
            setattr(residual, self.augmented, conv)
            size = conv.output_size(size)

    def _set_feat_size(self, img_size: tuple[int, int]) -> None:
        size = _stage3_size(self, img_size)
        for residual in self.layer4:
            conv = getattr(residual, self.augmented)
            conv.attn.set_feat_size(size)
            size = conv.output_size(size)


def _stage3_size(model: ResNet, img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the size of the map that enters stage 4: every strided layer of a ResNet rounds up."""
    reduction = model.feature_info[-2]['reduction']
    height, width = to_2tuple(img_size)
    return math.ceil(height / reduction), math.ceil(width / reduction)


def checkpoint_filter_fn(state_dict: StateDict, model: AResNet | AAResNet) -> StateDict:
    """Fit a checkpoint of this architecture, or of the plain ResNet, to a model.

    The first filters are kept of a convolution that became attention-augmented.

    Raises:
        ValueError: If the checkpoint does not fit.
    """

    def from_resnet(backbone: StateDict) -> StateDict:
        renamed = {}
        for key, value in backbone.items():
            if isinstance(model, AResNet) and key.startswith('layer4.'):
                _, index, rest = key.split('.', 2)
                key = f'layer4.{2 * int(index)}.conv.{rest}'
            elif key == 'fc.weight':
                value = pad_classifier(value, model.num_features)
            renamed[key] = value
        return renamed

    return fit_checkpoint(state_dict, model, from_resnet, classifier='fc')


def _create(model_cls: type[Model], variant: str, pretrained: bool, **kwargs: Any) -> Model:
    model: Model = build_model_with_cfg(
        model_cls, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
    return model


_cfg = partial(
    create_cfg,
    crop_pct=0.95,
    test_input_size=(3, 288, 288),
    test_crop_pct=1.0,
    interpolation='bicubic',
    first_conv='conv1',
    classifier='fc',
    origin_url='https://github.com/huggingface/pytorch-image-models',
    paper_ids='arXiv:2110.00476',
)

# The weights are the backbone's: after the filter the model computes what the backbone computes or, where convolutions
# are attention-augmented, keeps the backbone's first filters.
default_cfgs = generate_default_cfgs(
    {
        'aresnet18_relmha.a1_in1k': _cfg(hf_hub_id='timm/resnet18.a1_in1k'),
        'aresnet34_relmha.a1_in1k': _cfg(hf_hub_id='timm/resnet34.a1_in1k'),
        'aresnet50_relmha.a1_in1k': _cfg(hf_hub_id='timm/resnet50.a1_in1k'),
        'aresnet101_relmha.a1_in1k': _cfg(hf_hub_id='timm/resnet101.a1_in1k'),
        'aaresnet18.a1_in1k': _cfg(hf_hub_id='timm/resnet18.a1_in1k'),
        'aaresnet50.a1_in1k': _cfg(hf_hub_id='timm/resnet50.a1_in1k'),
    }
)


@register_model
def aresnet18_relmha(pretrained: bool = False, **kwargs: Any) -> AResNet:
    """ResNet18 with convolution-attention blocks in stage 4; not in the paper."""
    model_args = dict(block=BasicBlock, layers=(2, 2, 2, 2))
    return _create(AResNet, 'aresnet18_relmha', pretrained, **dict(model_args, **kwargs))


@register_model
def aresnet34_relmha(pretrained: bool = False, **kwargs: Any) -> AResNet:
    """ResNet34 with convolution-attention blocks in stage 4; not in the paper."""
    model_args = dict(block=BasicBlock, layers=(3, 4, 6, 3))
    return _create(AResNet, 'aresnet34_relmha', pretrained, **dict(model_args, **kwargs))


@register_model
def aresnet50_relmha(pretrained: bool = False, **kwargs: Any) -> AResNet:
    """ResNet50 with convolution-attention blocks in stage 4: the paper's AResNet50 (Fig. 4)."""
    model_args = dict(block=Bottleneck, layers=(3, 4, 6, 3))
    return _create(AResNet, 'aresnet50_relmha', pretrained, **dict(model_args, **kwargs))


@register_model
def aresnet101_relmha(pretrained: bool = False, **kwargs: Any) -> AResNet:
    """ResNet101 with convolution-attention blocks in stage 4; not in the paper."""
    model_args = dict(block=Bottleneck, layers=(3, 4, 23, 3))
    return _create(AResNet, 'aresnet101_relmha', pretrained, **dict(model_args, **kwargs))


@register_model
def aaresnet18(pretrained: bool = False, **kwargs: Any) -> AAResNet:
    """ResNet18 with attention-augmented first convolutions in the blocks of stage 4; not in the paper."""
    model_args = dict(block=BasicBlock, layers=(2, 2, 2, 2))
    return _create(AAResNet, 'aaresnet18', pretrained, **dict(model_args, **kwargs))


@register_model
def aaresnet50(pretrained: bool = False, **kwargs: Any) -> AAResNet:
    """ResNet50 with attention-augmented 3x3 convolutions in stage 4: the paper's baseline AAResNet50."""
    model_args = dict(block=Bottleneck, layers=(3, 4, 6, 3))
    return _create(AAResNet, 'aaresnet50', pretrained, **dict(model_args, **kwargs))
