"""The 1x1 convolution that projects the channels of every position, by the faster kernel on one thread.

On a CPU torch gives a convolution to oneDNN, but for 1x1 kernels, fewer than 16 images and one thread: these go to the
BLAS library. Where that library does not use the processor's widest vectors, as MKL does not on other vendors' than
its own, oneDNN takes half the time; nowhere was it seen to take longer.
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
    if not torch.jit.is_scripting():  # a script leaves out what stands inside
        captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not captured and x.device.type == 'cpu' and torch.get_num_threads() == 1 and _is_for_onednn(x, weight):
            return torch.mkldnn_convolution(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return F.conv2d(x, weight, bias)


torch.fx.wrap('project')  # a traced graph calls it as a whole, so that it chooses when it runs


def _is_for_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    enabled = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    plain = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
    return enabled and plain and x.numel() > 0


class PointwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a 1x1 kernel, its parameters and its results.

    Args:
        in_channels: C
        out_channels: D
        bias: Whether a bias is learned.
        device: Device of the parameters.
        dtype: Type of the parameters.

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
