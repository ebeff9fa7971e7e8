"""The convolution-attention block on a stage of any timm backbone with feature maps.

Paper: "Augmented CNN models with relative multi-head attention for target recognition in infrared images", whose
block (Eq. 5 to 7) is built here around one complete stage. Its future work (lower levels) is the argument `stage`.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict, cast

import timm
import torch
import torch.nn as nn
from timm.layers import ClassifierHead, Format, get_device_dtype, to_2tuple
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import FeatureListNet, feature_take_indices  # no public path in timm 1.0.31

from timm_convattn.layers import ConvAttn
from timm_convattn.layers.conv_attn import AttnArgs, Transition, split_attn_args
from timm_convattn.layers.rel_mha import FactoryArgs
from timm_convattn.models._base import AttnModel, create_cfg
from timm_convattn.models._pretrained import StateDict, fit_checkpoint

__all__ = ['ConvAttnNet', 'checkpoint_filter_fn']

# preprocessing keys taken from the backbone
INPUT = ('input_size', 'pool_size', 'interpolation', 'crop_pct', 'crop_mode', 'mean', 'std')

TAKE_ANOTHER = 'Take a backbone with stages, such as convnext_tiny or resnet50.'


class ConvAttnNet(AttnModel, nn.Module):
    """A timm backbone with the convolution-attention block around one of its stages.

    `stages[i]` holds all layers between the backbone's map i - 1 and its map i. The chosen one is the convolutional
    path of the block (Eq. 6): the attention reads the map before it, is pooled to the size of its output, concatenated
    to it and batch-normalised. If stages follow, a linear transition (convolution, batch norm) restores the channels
    for them. The convolutional channels of a fresh model are the backbone's feature maps.

    The ratios are rounded to widths that the heads can share, because the widths of backbones differ.

    Args:
        backbone: Name of a timm model with feature maps, with or without a tag.
        stage: Index of the map whose stage gets the attention, from 1; negative ones count from the last with
            parameters.
        num_classes: Classes, 0 for pooled features.
        in_chans: Channels of the image.
        img_size: Height and width that the position tables are built for, in pixels. Other sizes are accepted as well.
        global_pool: Type of the global pool.
        drop_rate: Dropout before the classifier.
        transition_kernel: Kernel size of the transition.
        backbone_pretrained: Whether the backbone starts from its own weights.
        **kwargs: Arguments of the attention of `timm_convattn.layers.ConvAttn` (`num_heads`, `qk_ratio`, `v_ratio`,
            `qkv_bias`, `rel_pos`, `attn_proj`, `attn_drop`, `proj_drop`), and whatever else the backbone takes.

    Raises:
        ValueError: If the backbone has no feature maps to cut it at, there is no such stage, or the ratios are invalid.
        TypeError: If `kwargs` holds an unknown argument.
    """

    def __init__(
        self,
        backbone: str = 'resnet18',
        stage: int = -1,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        transition_kernel: int = 3,
        backbone_pretrained: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: FactoryArgs = {'device': device, 'dtype': dtype}
        super().__init__()
        attn_args, kwargs = split_attn_args(kwargs)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.grad_checkpointing = False
        body = _cut(backbone, backbone_pretrained, in_chans=in_chans, **kwargs, **dd)
        self.stages, self.feature_info = body.stages, body.feature_info
        self.stage = _choose_stage(stage, self.stages, backbone)

        before, here = self.feature_info[self.stage - 1], self.feature_info[self.stage]
        stride, ceil = _rounding(self.stages[self.stage], before['num_chs'])
        _fit_widths(attn_args, here['num_chs'])
        block = ConvAttn(
            self.stages[self.stage],
            dim=before['num_chs'],
            dim_out=here['num_chs'],
            feat_size=self._size_before_block(img_size),
            stride=stride,
            ceil=ceil,
            **attn_args,
            **dd,
        )
        if self.stage == len(self.stages) - 1:
            self.stages[self.stage] = block
            here['num_chs'] = block.num_features
        else:
            transition = Transition(block.num_features, block.dim_out, transition_kernel, act_layer=None, **dd)
            # saved weights have the name "form"
            self.stages[self.stage] = nn.Sequential(OrderedDict(form=block, transition=transition))

        first_conv = next(name for name, module in self.named_modules() if isinstance(module, nn.Conv2d))
        self._traits = {'first_conv': first_conv}  # timm adapts it to other `in_chans`
        self.num_features = self.feature_info[-1]['num_chs']
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features

    def _size_before_block(self, img_size: int | tuple[int, int]) -> tuple[int, int]:
        """Return the size of the map that the attention reads."""
        height, width = to_2tuple(img_size)
        size_before = _output_size(self.stages[: self.stage], self.in_chans, (height, width))
        if size_before is None or _output_size(self.stages, self.in_chans, (height, width)) is None:
            raise ValueError(
                f'img_size is {height} x {width} pixels, which the backbone cannot take. Use a larger one, or the one '
                'that the backbone is built for.'
            )
        return size_before

    @torch.jit.ignore
    def get_block(self) -> ConvAttn:
        """Return the convolution-attention block."""
        return next(module for module in self.stages[self.stage].modules() if isinstance(module, ConvAttn))

    def _set_feat_size(self, img_size: tuple[int, int]) -> None:
        self.get_block().set_feat_size(self._size_before_block(img_size))

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Group parameters by stage."""
        return dict(stem=r'^stages\.0', blocks=r'^stages\.(\d+)')

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling where one is named."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the feature maps of the stages.

        Args:
            x: (B, in_chans, H, W)
            indices: The maps to return: the last n, those listed, or all if None.
            norm: Unused, there is no final norm.
            stop_early: Stop after the last selected map.
            output_fmt: 'NCHW'.
            intermediates_only: Whether to return no final map.

        Returns:
            The final map and the selected ones, or only those.
        """
        if output_fmt != 'NCHW':
            raise ValueError('The maps are NCHW, there is no other output_fmt.')
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        if torch.jit.is_scripting() or not stop_early:  # noqa: SIM108  a script cannot slice modules
            stages = self.stages
        else:
            stages = self.stages[: max_index + 1]
        maps = []
        for index, stage in enumerate(stages):
            x = checkpoint_seq([stage], x) if self.grad_checkpointing else stage(x)
            if index in take_indices:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the selected maps do not need.

        Args:
            indices: The maps that are wanted: the last n, or those listed.
            prune_norm: Unused, there is no final norm.
            prune_head: Whether to remove the classifier where the last map is wanted.

        Returns:
            The indices of the maps.
        """
        take_indices: list[int]
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        pruned = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        if pruned:
            self.num_features = self.feature_info[max_index]['num_chs']
            self.head = ClassifierHead(self.num_features, 0, '', self.head.drop.p, **get_device_dtype(self))
            self.head.train(self.training)
        if pruned or prune_head:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature map."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.stages, x)
        else:
            x = self.stages(x)
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify, or pool alone."""
        x = self.head(x, pre_logits=pre_logits)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))


class FeatureInfo(TypedDict):
    """Description of a feature map, as timm lists it."""

    num_chs: int
    reduction: int
    module: str


class Body(NamedTuple):
    """A backbone cut at its feature maps: one module and one description for each map."""

    stages: nn.Sequential
    feature_info: list[FeatureInfo]
    pretrained_cfg: Mapping[str, Any]


def _cut(backbone: str, pretrained: bool = False, **kwargs: Any) -> Body:
    """Cut a backbone at its feature maps, or refuse one that has none."""
    kwargs |= dict(pretrained=pretrained, features_only=True)
    body = timm.create_model(backbone, **kwargs)
    if not isinstance(body, FeatureListNet):  # some families have a custom class, but can be cut as well
        try:
            body = timm.create_model(backbone, **kwargs, feature_cfg=dict(feature_cls='list', flatten_sequential=True))
        except (AssertionError, TypeError) as error:
            raise ValueError(f'{backbone} cannot be cut at its feature maps. {TAKE_ANOTHER}') from error
    infos = [cast(FeatureInfo, dict(info)) for info in body.feature_info.get_dicts()]
    if (
        not isinstance(body, FeatureListNet)
        or body.output_fmt != Format.NCHW
        or len({info['reduction'] for info in infos}) < 2
    ):
        raise ValueError(f'{backbone} has no pyramid of NCHW maps to put the attention between. {TAKE_ANOTHER}')
    stages, modules = [], OrderedDict[str, nn.Module]()
    for name, module in body.items():
        modules[name] = module
        if name in body.return_layers:
            stages.append(nn.Sequential(modules))
            modules = OrderedDict()
    for index, info in enumerate(infos):
        info['module'] = f'stages.{index}'
    return Body(nn.Sequential(*stages), infos, body.pretrained_cfg)


def _choose_stage(stage: int, stages: nn.Sequential, backbone: str) -> int:
    """Return the index of the stage, which must have parameters and a map before it."""
    possible = [index for index in range(1, len(stages)) if any(True for _ in stages[index].parameters())]
    if stage in possible:
        return stage
    if -len(possible) <= stage < 0:
        return possible[stage]
    raise ValueError(
        f'{backbone} has no stage {stage} to put the attention at, it has {possible} (or -1 for the last).'
    )


def _fit_widths(attn_args: AttnArgs, dim_out: int) -> None:
    """Round the ratios so that the heads can share the widths, whatever width the backbone has."""
    num_heads = attn_args.get('num_heads', 8)

    def fit(ratio: float) -> float:
        return max(round(dim_out * ratio / num_heads), 1) * num_heads / dim_out

    if num_heads > 0:  # else the attention raises the error
        attn_args['qk_ratio'] = fit(attn_args.get('qk_ratio', 0.125))
        attn_args['v_ratio'] = fit(attn_args.get('v_ratio', 0.125))


def _rounding(stage: nn.Module, dim: int) -> tuple[int, bool]:
    """Return the stride of a stage, and whether it rounds an odd size up."""
    odd, even = _output_size(stage, dim, (15, 15)), _output_size(stage, dim, (16, 16))
    if even == (16, 16) and odd in ((15, 15), None):  # None: it accepts no odd size
        return 1, True
    if even == (8, 8) and odd in ((8, 8), (7, 7), None):
        return 2, odd != (7, 7)
    raise ValueError(
        f'The stage makes maps of {odd} and {even} from maps of 15 x 15 and 16 x 16. The attention can follow one that '
        f'keeps the size or halves it, rounded up or down. {TAKE_ANOTHER}'
    )


def _output_size(module: nn.Module, in_chans: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the size of the output for a map of `size`, None if the module does not accept that size."""
    # the copy is created on the meta device: no data is copied
    without_data: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to('meta'), p.requires_grad) for p in module.parameters()
    }
    without_data |= {id(buffer): buffer.to('meta') for buffer in module.buffers()}
    on_meta = copy.deepcopy(module, without_data).float().eval()
    try:
        height, width = on_meta(torch.empty(1, in_chans, *size, device='meta')).shape[2:]
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError):  # any error that a backbone raises
        return None
    return height, width


def checkpoint_filter_fn(state_dict: StateDict, model: ConvAttnNet) -> StateDict:
    """Fit a checkpoint of this architecture, at any input size, to a model.

    Raises:
        ValueError: If the checkpoint does not fit.
    """
    return fit_checkpoint(state_dict, model, from_backbone=dict, classifier='head.fc')


# the first convolution is that of the default backbone; each model has its own
default_cfgs = generate_default_cfgs(
    {'convattn.untrained': create_cfg(first_conv='stages.0.conv1', classifier='head.fc')}
)


@register_model
def convattn(pretrained: bool = False, backbone: str = 'resnet18', **kwargs: Any) -> ConvAttnNet:
    """The convolution-attention block on a stage of any timm backbone: `backbone='convnext_tiny'`, `stage=-1`.

    With `pretrained=True` and no checkpoint of the whole model, the backbone's weights are loaded.
    """
    own_cfg, overlay = kwargs.pop('pretrained_cfg', None), kwargs.pop('pretrained_cfg_overlay', None) or {}
    has_checkpoint = own_cfg is not None or bool(overlay)
    if pretrained and not has_checkpoint:
        kwargs['backbone_pretrained'] = True
    body = _cut(backbone, device='meta')
    if own_cfg is None:
        overlay = {key: body.pretrained_cfg[key] for key in INPUT if key in body.pretrained_cfg} | overlay
    model: ConvAttnNet = build_model_with_cfg(
        ConvAttnNet,
        'convattn',
        pretrained and has_checkpoint,
        pretrained_filter_fn=checkpoint_filter_fn,
        pretrained_cfg=own_cfg,
        pretrained_cfg_overlay=overlay,
        feature_cfg=dict(flatten_sequential=True, out_indices=tuple(range(len(body.stages)))),
        backbone=backbone,
        **kwargs,
    )
    return model
