"""2-D convolutions of images with few channels, such as spectra, whose gradient a CPU computes three times as fast."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Channels that a CPU's kernels compute at once, whether they are wanted or not.
_LANES = 16


class NarrowConv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, the same function. Where few channels come in, on a CPU, the gradient takes another way.

    The gradient at the input of C channels is a convolution with C channels out, and kernels that compute 16 at once
    throw most of them away. Here 16 / C neighbours in a row become the channels of one convolution of that stride: it
    multiplies by some zeros, and throws nothing away.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H_out, W_out]."""
        if self._is_faster(x):
            return _NarrowConv2d.apply(x, self.weight, self.bias, self.padding)
        return super().forward(x)

    def _is_faster(self, x: torch.Tensor) -> bool:
        return (x.device.type == 'cpu' and x.requires_grad and torch.is_grad_enabled() and x.dtype == torch.float32
                and not torch.is_autocast_enabled('cpu') and not torch.compiler.is_compiling()
                and x.dim() == 4 and 2 * x.shape[1] <= _LANES and _LANES % x.shape[1] == 0
                and self.groups == 1 and self.padding_mode == 'zeros' and self.stride == self.dilation == (1, 1)
                and tuple(2 * padding + 1 for padding in self.padding if isinstance(padding, int)) == self.kernel_size)


class _NarrowConv2d(torch.autograd.Function):
    """A convolution of stride 1 that keeps the size of the image."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
                padding: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return F.conv2d(x, weight, bias, 1, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        weight_grad = bias_grad = None
        if of_weight or of_bias:
            _, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
                grad, x, weight, ctx.bias_sizes, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1,
                [False, of_weight, of_bias])
        return _input_gradient(grad, weight) if of_x else None, weight_grad, bias_grad, None


def _input_gradient(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gradient at the input [B, C, H, W] for that at the output [B, O, H, W].

    It is dx[c, i] = sum_o,t w[o, c, t] dy[o, i + p - t], along the rows, p being half the kernel. With i = S q + s,
    and k = s + 2 p - t, it is a convolution of dy of stride S, with a kernel of S + 2 p taps, for each pair (s, c).
    """
    outputs, channels, rows, taps = weight.shape
    items, _, height, width = grad.shape
    side = _LANES // channels
    flipped = weight.flip(2, 3)
    kernel = torch.stack([F.pad(flipped, (shift, side - 1 - shift)) for shift in range(side)])
    kernel = kernel.permute(0, 2, 1, 3, 4).reshape(side * channels, outputs, rows, side + taps - 1)
    # One block too many on the left, so that the padding, equal on both sides, is enough for the last block.
    blocks = F.conv2d(grad, kernel.contiguous(memory_format=torch.channels_last), None, (1, side),
                      (rows // 2, taps // 2 + side))
    pixels = blocks.permute(0, 2, 3, 1)[:, :, 1:].reshape(items, height, -1, channels)[:, :, :width]
    return pixels.permute(0, 3, 1, 2)
