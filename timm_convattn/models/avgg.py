"""VGGs whose last stage is convolutional-attentional ("AVGG16" of the paper).

Paper: "Augmented CNN models with relative multi-head attention for target recognition in infrared images".
The backbones are timm's VGGs ("Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556).
"""

from typing import Any

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, get_norm_layer, to_2tuple
from timm.models import VGG, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vgg import cfgs as vgg_cfgs

from timm_convattn.layers import ConvAttn
from timm_convattn.models._pretrained import StateDict, fit_checkpoint

__all__ = ['AVgg', 'checkpoint_filter_fn']


class AVgg(VGG):
    """A VGG with the paper's stage 5 (Fig. 3): all its convolutions and its pool, beside one attention.

    The last entry of `features` is the convolutional-attentional form (Eq. 6): its convolutional path is VGG's whole
    stage 5, its attention (Eq. 1 to 5) reads the output of stage 4 and is pooled 3x3 with stride 2 to the same size.

    Where the paper is silent: the top is a global average pool, dropout and a linear layer, in place of VGG's two
    wide layers on a 7x7 map; without batch norm in the VGG, the one after the concatenation stays the only one.

    Args:
        cfg: Layers of the VGG: channels of a convolution, or 'M' for a max pool.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        img_size: Height and width that the position tables are built for, in pixels. Other sizes are taken as well.
        num_heads: Attention heads (N_h).
        qk_ratio: Query and key channels over the stage's channels (d_k / D_out).
        v_ratio: Value channels over the stage's channels (d_v / D_out).
        qkv_bias: Whether the projections to queries, keys and values have a bias.
        rel_pos: Whether the attention knows relative positions.
        attn_proj: Whether the attention projects its output (W^a of Eq. 2).
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the attention's output.
        norm_layer: Normalisation inside the VGG (none in the paper); after the concatenation a batch norm by default.
        global_pool: Type of the global pool.
        drop_rate: Dropout before the classifier.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **kwargs: Whatever else `timm.models.VGG` takes.

    Raises:
        ValueError: If the ratios give widths that the heads cannot share equally.
        TypeError: If `kwargs` holds what a VGG does not take.
    """

    features: nn.Sequential

    def __init__(
        self,
        cfg: list[Any],
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        num_heads: int = 8,
        qk_ratio: float = 0.125,
        v_ratio: float = 0.125,
        qkv_bias: bool = False,
        rel_pos: bool = True,
        attn_proj: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Any = None,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        # a `mlp_ratio` of one channel keeps small what is replaced below: VGG's top on the 7x7 map
        super().__init__(cfg, 0, in_chans, mlp_ratio=1 / 4096, norm_layer=norm_layer, **kwargs, **dd)
        first = self.feature_ends[-3] + 2  # stage 5 follows the last layer of stage 4 and its pool
        dim, dim_out = self.feature_info[-3]['num_chs'], self.feature_info[-2]['num_chs']
        form = ConvAttn(
            nn.Sequential(*self.features[first:]),
            dim=dim,
            dim_out=dim_out,
            feat_size=tuple(max(size // 16, 1) for size in to_2tuple(img_size)),
            stride=2,
            ceil=False,
            num_heads=num_heads,
            qk_ratio=qk_ratio,
            v_ratio=v_ratio,
            qkv_bias=qkv_bias,
            rel_pos=rel_pos,
            attn_proj=attn_proj,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=get_norm_layer(norm_layer) or nn.BatchNorm2d,
            **dd,
        )
        self.features = nn.Sequential(*self.features[:first], form)
        # the taps inside stage 5 are gone with it: the map that enters it and the form's output take their place
        self.feature_ends[-2:] = [first - 1, first]
        self.feature_info[-2:] = [
            dict(num_chs=dim, reduction=16, module=f'features.{first - 1}'),
            dict(num_chs=form.num_features, reduction=32, module=f'features.{first}'),
        ]
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.num_features = form.num_features
        self.pre_logits = nn.Identity()
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Name the position tables, which are embeddings and not to be decayed."""
        return {name for name, _ in self.named_parameters() if name.endswith(('.height_rel', '.width_rel'))}


def checkpoint_filter_fn(state_dict: StateDict, model: AVgg) -> StateDict:
    """Fit a checkpoint of this architecture, or of the plain VGG without its top, to a model.

    Args:
        state_dict: The checkpoint.
        model: The model to be loaded.

    Returns:
        The entries by the model's names.

    Raises:
        ValueError: If the checkpoint does not fit.
    """

    def from_vgg(backbone: StateDict) -> StateDict:
        form = len(model.features) - 1
        renamed = {}
        for key, value in backbone.items():
            part, index, *rest = key.split('.')
            if part == 'features' and int(index) >= form:
                key = '.'.join([part, str(form), 'conv', str(int(index) - form), *rest])
            if part == 'features':
                renamed[key] = value
        return renamed

    return fit_checkpoint(state_dict, model, from_vgg, classifier='head.fc')


def _create_avgg(variant: str, pretrained: bool = False, **kwargs: Any) -> AVgg:
    out_indices = kwargs.pop('out_indices', (0, 1, 2, 3, 4, 5))
    model: AVgg = build_model_with_cfg(
        AVgg,
        variant,
        pretrained,
        model_cfg=vgg_cfgs['vgg' + variant.split('_')[0].removeprefix('avgg')],
        feature_cfg=dict(flatten_sequential=True, out_indices=out_indices),
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )
    return model


def _cfg(url: str = '', **kwargs: Any) -> dict[str, Any]:
    return {
        'url': url,
        # VGG's classifier reads VGG's top, which is left behind: these weights give features
        'num_classes': 0,
        'input_size': (3, 224, 224),
        'min_input_size': (3, 32, 32),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'features.0',
        'classifier': 'head.fc',
        'license': 'bsd-3-clause',
        **kwargs,
    }


# The weights are the backbone's own: the filter gives them a model that computes what the backbone computes.
default_cfgs = generate_default_cfgs(
    {
        'avgg16_relmha.tv_in1k': _cfg(hf_hub_id='timm/vgg16.tv_in1k'),
    }
)


@register_model
def avgg16_relmha(pretrained: bool = False, **kwargs: Any) -> AVgg:
    """VGG16 with a convolutional-attentional stage 5: the paper's AVGG16 (Fig. 3)."""
    return _create_avgg('avgg16_relmha', pretrained, **kwargs)
