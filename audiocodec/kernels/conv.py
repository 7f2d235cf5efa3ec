"""Convolutions with faster algorithms for CPUs.

They compute the same functions and gradients as PyTorch's. On CPUs, PyTorch's float32 convolutions
are as fast as the processor can multiply, except for these cases, which have faster algorithms
here:

- the gradient of the bias: takes several times as long as the sum that it consists of;
- the input gradient of a few channels: see `narrow`;
- three taps in time, without AVX-512: see `winograd`;
- wide audio with seven taps: see `phases`;
- wide images with four or five taps in time only: see `toom`;
- the weight gradient of wide layers with few frames: PyTorch makes eight copies of the weights.

On other devices, for other dtypes, if compiled, and under autocast, PyTorch's implementation is
used.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec import kernels
from audiocodec.kernels import narrow, phases, toom, winograd
from audiocodec.kernels.geometry import Geometry

_ALGORITHMS = (winograd, toom, phases)
_MIN_CHANNELS_PER_FRAME = 8  # from which on `_few_frame_weight_gradient` is faster


class FastConv1d(nn.Conv1d):
    """`torch.nn.Conv1d` with faster algorithms for CPUs."""

    def forward(self, x: torch.Tensor, zeros: int | None = None) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T_out]; `zeros` replaces the padding of the module."""
        padding = self.padding if zeros is None else (zeros,)
        weight = self.weight
        if _is_supported(self, x):
            return convolve(x, weight, self.bias, _geometry(self, padding))
        if zeros is None:
            return self._conv_forward(x, weight, self.bias)
        return F.conv1d(x, weight, self.bias, self.stride, zeros, self.dilation, self.groups)


class FastConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with faster algorithms for CPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H_out, W_out]."""
        if _is_supported(self, x):
            return convolve(x, self.weight, self.bias, _geometry(self, self.padding))
        return super().forward(x)


class FastConvTranspose1d(nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with faster algorithms for CPUs."""

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T_out]."""
        if output_size is None and _is_supported(self, x):
            return convolve(x, self.weight, self.bias, _geometry(self, self.padding))
        return super().forward(x, output_size)


def _is_supported(conv: nn.modules.conv._ConvNd, x: torch.Tensor) -> bool:
    """True if `convolve` supports the convolution of x."""
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
    """Convolve float32 audio or images on a CPU.

    Args:
        x: [B, C_in, ...], with one or two further dimensions.
        weight: [C_out, C_in, ...], or [C_in, C_out, ...] if transposed.
        bias: [C_out] or None.
        geometry: stride, padding and dilation.

    Returns:
        [B, C_out, ...].
    """
    algorithm = next(
        (each for each in _ALGORITHMS if each.is_applicable(x, weight, geometry)), None
    )
    out: torch.Tensor = _Convolution.apply(x, weight, bias, geometry, algorithm)
    return out


class _Convolution(torch.autograd.Function):
    """Implementation of `convolve`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        geometry: Geometry,
        algorithm: Any,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        ctx.algorithm = algorithm
        if algorithm is not None:
            out: torch.Tensor = algorithm.convolve(x, weight, bias, geometry)
            return out
        stride, padding, dilation, transposed = geometry
        return torch.convolution(
            x, weight, bias, stride, padding, dilation, transposed, [0] * len(stride), 1
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        bias_grad = grad.sum([0, *range(2, grad.dim())]) if needs_bias else None
        if ctx.algorithm is not None:
            x_grad, weight_grad = ctx.algorithm.gradients(
                grad, x, weight, geometry, needs_x, needs_weight
            )
            return x_grad, weight_grad, bias_grad, None, None
        x_grad = weight_grad = None
        if (
            needs_x
            and not geometry.transposed
            and narrow.is_applicable(x.shape[1], weight.shape[2:], *geometry[:3])
        ):
            x_grad = narrow.input_gradient(grad, weight)
            needs_x = False
        if needs_weight and _has_few_frames(grad, x, geometry):
            weight_grad = _few_frame_weight_gradient(grad, x, weight, geometry)
            needs_weight = False
        # PyTorch computes what is still needed.
        rest = _plain_gradients(grad, x, weight, geometry, needs_x, needs_weight)
        return (
            rest[0] if x_grad is None else x_grad,
            rest[1] if weight_grad is None else weight_grad,
            bias_grad,
            None,
            None,
        )


def _plain_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return PyTorch's gradients of input and weight, None for one that is not needed."""
    if not needs_x and not needs_weight:
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
        [needs_x, needs_weight, False],
    )
    return gradients[0], gradients[1]


def _has_few_frames(grad: torch.Tensor, x: torch.Tensor, geometry: Geometry) -> bool:
    frames, samples = (x, grad) if geometry.transposed else (grad, x)
    return (
        frames.dim() == 3
        and geometry.dilation == (1,)
        and _MIN_CHANNELS_PER_FRAME * frames.shape[0] * frames.shape[2]
        <= max(frames.shape[1], samples.shape[1])
    )


def _few_frame_weight_gradient(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry: Geometry
) -> torch.Tensor:
    """Return the gradient of the weight, computed as a single matrix product.

    The factors are the frames [channels, items x frames] and the windows of samples that the frames
    were computed from.
    """
    frames, samples = (x, grad) if geometry.transposed else (grad, x)
    windows = F.pad(samples, 2 * geometry.padding).unfold(2, weight.shape[2], geometry.stride[0])
    windows = windows[:, :, : frames.shape[2]].permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
    return (frames.transpose(0, 1).flatten(1) @ windows).view_as(weight)
