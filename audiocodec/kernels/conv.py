"""Convolutions that a CPU computes by faster ways: the same functions as PyTorch's, with the same
gradients.

Where the time goes on a CPU, PyTorch's convolutions of float32 are as fast as the processor can
multiply, with these exceptions, which the modules here go around:

- the gradient of the bias takes several times as long as the sum that it is;
- the input gradient of a few channels (`narrow`);
- three taps in time, without AVX-512 (`winograd`);
- the weight gradient of wide layers and few frames, for which eight copies of the weights are made.

On other devices, for other types, compiled, or in autocast, they are PyTorch's own.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec import kernels
from audiocodec.kernels import narrow, winograd
from audiocodec.kernels.geometry import Geometry

_WIDE = 8  # times as many channels out as frames


class FastConv1d(nn.Conv1d):
    """`torch.nn.Conv1d`, see above."""

    def forward(self, x: torch.Tensor, zeros: int | None = None) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T_out]; `zeros` stands for the padding of the module."""
        padding = self.padding if zeros is None else (zeros,)
        weight = self.weight
        if _is_covered(self, x):
            return convolve(x, weight, self.bias, _geometry(self, padding))
        if zeros is None:
            return self._conv_forward(x, weight, self.bias)
        return F.conv1d(x, weight, self.bias, self.stride, zeros, self.dilation, self.groups)


class FastConv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, see above."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H_out, W_out]."""
        if _is_covered(self, x):
            return convolve(x, self.weight, self.bias, _geometry(self, self.padding))
        return super().forward(x)


class FastConvTranspose1d(nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`, see above."""

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T_out]."""
        if output_size is None and _is_covered(self, x):
            return convolve(x, self.weight, self.bias, _geometry(self, self.padding))
        return super().forward(x, output_size)


def _is_covered(conv: nn.modules.conv._ConvNd, x: torch.Tensor) -> bool:
    """Whether there may be a faster way than PyTorch's own."""
    return (
        kernels.is_enabled()
        and x.device.type == 'cpu'
        and x.dtype == torch.float32
        and x.dim() == 2 + len(conv.kernel_size)
        and not torch.is_autocast_enabled('cpu')
        and not torch.compiler.is_compiling()
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and not isinstance(conv.padding, str)
        and not any(conv.output_padding)
    )


def _geometry(conv: nn.modules.conv._ConvNd, padding: Any) -> Geometry:
    return Geometry(conv.stride, padding, conv.dilation, conv.transposed)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
) -> torch.Tensor:
    """Convolve float32 audio or images of a CPU.

    Args:
        x: [B, C_in, ...], with one or two dimensions more.
        weight: [C_out, C_in, ...], or [C_in, C_out, ...] if transposed.
        bias: [C_out] or None.
        geometry: see there.

    Returns:
        [B, C_out, ...].
    """
    out: torch.Tensor = _Convolution.apply(x, weight, bias, geometry)
    return out


class _Convolution(torch.autograd.Function):
    """See `convolve`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        geometry: Geometry,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        if winograd.suits(x, weight, geometry):
            return winograd.convolve(x, weight, bias, geometry)
        stride, padding, dilation, transposed = geometry
        return torch.convolution(
            x, weight, bias, stride, padding, dilation, transposed, [0] * len(stride), 1
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        bias_grad = grad.sum([0, *range(2, grad.dim())]) if of_bias else None
        if winograd.suits(x, weight, geometry):
            return (
                *winograd.gradients(grad, x, weight, geometry, of_x, of_weight),
                bias_grad,
                None,
            )
        x_grad = weight_grad = None
        if (
            of_x
            and not geometry.transposed
            and narrow.suits(x.shape[1], weight.shape[2:], *geometry[:3])
        ):
            x_grad, of_x = narrow.input_gradient(grad, weight), False
        if of_weight and _has_few_frames(grad, x, geometry):
            weight_grad, of_weight = _product_of_frames(grad, x, weight, geometry), False
        rest = _plain_gradients(grad, x, weight, geometry, of_x, of_weight)
        return (
            rest[0] if x_grad is None else x_grad,
            rest[1] if weight_grad is None else weight_grad,
            bias_grad,
            None,
        )


def _plain_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    of_x: bool,
    of_weight: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """PyTorch's own gradients of input and weight."""
    if not of_x and not of_weight:
        return None, None
    stride, padding, dilation, transposed = geometry
    gradients = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        stride,
        padding,
        dilation,
        transposed,
        [0] * len(stride),
        1,
        [of_x, of_weight, False],
    )
    return gradients[0], gradients[1]


def _has_few_frames(grad: torch.Tensor, x: torch.Tensor, geometry: Geometry) -> bool:
    frames, samples = (x, grad) if geometry.transposed else (grad, x)
    return (
        frames.dim() == 3
        and geometry.dilation == (1,)
        and _WIDE * frames.shape[0] * frames.shape[2] <= max(frames.shape[1], samples.shape[1])
    )


def _product_of_frames(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry: Geometry
) -> torch.Tensor:
    """Gradient of the weight, as one matrix product of frames [channels, items x frames] and the
    samples under them.
    """
    frames, samples = (x, grad) if geometry.transposed else (grad, x)
    windows = F.pad(samples, 2 * geometry.padding).unfold(2, weight.shape[2], geometry.stride[0])
    windows = windows[:, :, : frames.shape[2]].permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
    return (frames.transpose(0, 1).flatten(1) @ windows).view_as(weight)
