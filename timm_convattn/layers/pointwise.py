"""A 1x1 convolution with the faster CPU kernel on one thread.

On a CPU torch uses oneDNN for convolutions, except for 1x1 kernels with fewer than 16 images on one thread, for which
it calls BLAS. Where BLAS does not use the widest vectors (MKL on processors of other vendors), oneDNN takes half the
time. It was never measured to take longer.
"""

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F

__all__ = ['PointwiseConv2d']


def project(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve with a 1x1 kernel.

    Args:
        x: (B, C, H, W)
        weight: (D, C, 1, 1)
        bias: (D,)

    Returns:
        (B, D, H, W)
    """
    if not torch.jit.is_scripting():  # TorchScript skips this branch
        captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not captured and x.device.type == 'cpu' and torch.get_num_threads() == 1 and _is_for_onednn(x, weight):
            return torch.mkldnn_convolution(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return F.conv2d(x, weight, bias)


torch.fx.wrap('project')  # an fx leaf, so that the kernel is chosen at run time


def _is_for_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    enabled = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    plain = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
    return enabled and plain and x.numel() > 0


class PointwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a 1x1 kernel: same parameters, same results.

    Args:
        in_channels: C
        out_channels: D
        bias: Whether there is a bias.

    Shape:
        x: (B, C, H, W) -> (B, D, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        return project(x, self.weight, self.bias)
