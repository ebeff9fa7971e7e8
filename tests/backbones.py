"""Backbones for informative tests of equality: no value has its default."""

import timm
import torch


def random_backbone(name, **kwargs):
    """A backbone of timm in eval mode, with random weights and batch-norm statistics."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, **kwargs).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return backbone
