"""Normalized convolutions, padded so that encoder and decoder stay aligned in time."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.kernels.conv import FastConv1d, FastConv2d, FastConvTranspose1d
from audiocodec.modules.activation import ELU
from audiocodec.modules.checks import require_int
from audiocodec.modules.norm import normalize_weight, output_norm
from audiocodec.modules.reach import Reach, overlapping

PAD_MODES = ('constant', 'reflect', 'replicate', 'circular')


class NormConv1d(nn.Module):
    """`torch.nn.Conv1d` with normalized weights or with a normalization layer after it.

    Args:
        *args: arguments of `torch.nn.Conv1d`.
        causal: refuse normalizations that see the future.
        norm: one of `norm.CONV_NORMS`.
        norm_kwargs: arguments of the normalization.
        **kwargs: arguments of `torch.nn.Conv1d`.
    """

    def __init__(
        self,
        *args: Any,
        causal: bool = False,
        norm: str = 'none',
        norm_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.conv = normalize_weight(FastConv1d(*args, **kwargs), norm)
        self.norm = output_norm(self.conv.out_channels, norm, norm_kwargs, causal)

    def forward(self, x: torch.Tensor, zeros: int | None = None) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T_out].

        Args:
            x: [B, C_in, T].
            zeros: number of zeros to pad on both sides instead of the padding of the convolution.
                The convolution pads them itself, without a copy of x.
        """
        return self.norm(self.conv(x, zeros))


class NormConv2d(nn.Module):
    """`torch.nn.Conv2d` with a normalization; arguments as in `NormConv1d`, never causal."""

    def __init__(
        self,
        *args: Any,
        norm: str = 'none',
        norm_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.conv = normalize_weight(FastConv2d(*args, **kwargs), norm)
        self.norm = output_norm(self.conv.out_channels, norm, norm_kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H_out, W_out]."""
        return self.norm(self.conv(x))


class NormConvTranspose1d(nn.Module):
    """`torch.nn.ConvTranspose1d` with a normalization; arguments as in `NormConv1d`."""

    def __init__(
        self,
        *args: Any,
        causal: bool = False,
        norm: str = 'none',
        norm_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.convtr = normalize_weight(FastConvTranspose1d(*args, **kwargs), norm)
        self.norm = output_norm(self.convtr.out_channels, norm, norm_kwargs, causal)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T_out]."""
        return self.norm(self.convtr(x))


def pad1d(x: torch.Tensor, paddings: tuple[int, int], mode: str = 'constant') -> torch.Tensor:
    """Pad the last dimension of an input of any length.

    Reflection needs at least one sample more than it pads, circular padding as many as it pads. A
    shorter input is first extended with zeros on the right, which are cut off again afterwards.

    Args:
        x: [..., T], T >= 1.
        paddings: samples to add on the left and on the right.
        mode: one of `PAD_MODES`; `constant` pads zeros.

    Returns:
        [..., left + T + right].
    """
    left, right = paddings
    assert min(paddings) >= 0, paddings
    if left == right == 0:  # F.pad would copy
        return x
    needed = {'reflect': max(paddings) + 1, 'circular': max(paddings)}.get(mode, 0)
    missing = max(needed - x.shape[-1], 0)
    if missing:
        x = F.pad(x, (0, missing))
    padded = F.pad(x, paddings, mode)
    return padded[..., :-missing] if missing else padded


def unpad1d(x: torch.Tensor, paddings: tuple[int, int]) -> torch.Tensor:
    """Remove samples on the left and on the right of the last dimension."""
    left, right = paddings
    assert min(paddings) >= 0, paddings
    assert left + right <= x.shape[-1], (paddings, x.shape)
    return x[..., left : x.shape[-1] - right]


class StreamableConv1d(nn.Module):
    """Convolution with exactly ceil(T / stride) output frames.

    Windows of the effective kernel, k = (kernel_size - 1) * dilation + 1, overlap by k - stride
    samples. A causal convolution pads that many samples on the left. Others pad half of them on
    each side, with an odd one on the left. If T is not a multiple of the stride, the right side is
    padded further until the last window is full. Frame t of a causal convolution ends with sample
    (t + 1) * stride - 1.

    With `reflect` and `circular`, the left padding repeats later samples. A causal convolution is
    therefore causal from its first frame on only with `constant` and `replicate`.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: taps of the kernel.
        stride: samples per frame.
        dilation: samples between the taps of the kernel.
        groups: see `torch.nn.Conv1d`.
        bias: see `torch.nn.Conv1d`.
        causal: whether frames depend on no later samples.
        norm: one of `norm.CONV_NORMS`.
        norm_kwargs: arguments of the normalization.
        pad_mode: one of `PAD_MODES`.

    Raises:
        ValueError: an argument out of range, or a kernel that skips samples (k < stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        norm: str = 'none',
        norm_kwargs: Mapping[str, Any] | None = None,
        pad_mode: str = 'reflect',
    ) -> None:
        super().__init__()
        sizes = {
            'in_channels': in_channels,
            'out_channels': out_channels,
            'kernel_size': kernel_size,
            'stride': stride,
            'dilation': dilation,
            'groups': groups,
        }
        for name, value in sizes.items():
            require_int(name, value)
        if pad_mode not in PAD_MODES:
            raise ValueError(
                f'pad_mode={pad_mode!r} is unknown: choose one of {", ".join(PAD_MODES)}'
            )
        self.padding_total = (kernel_size - 1) * dilation + 1 - stride
        if self.padding_total < 0:
            raise ValueError(
                f'kernel_size={kernel_size} with dilation={dilation} skips samples at '
                f'stride={stride}: the kernel must cover at least the stride'
            )
        self.conv = NormConv1d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
            causal=causal,
            norm=norm,
            norm_kwargs=norm_kwargs,
        )
        self.stride = stride
        self.causal = causal
        self.pad_mode = pad_mode

    def forward(self, x: torch.Tensor, activation: ELU | None = None) -> torch.Tensor:
        """Map [B, in_channels, T] to [B, out_channels, ceil(T / stride)].

        Args:
            x: [B, in_channels, T].
            activation: applied to x before the convolution. It is computed after the padding, with
                the same result: ELU keeps padded zeros zero, and other modes repeat samples. The
                padded copy is then the only tensor saved for the backward pass.
        """
        extra = -x.shape[-1] % self.stride
        right = 0 if self.causal else self.padding_total // 2
        left = self.padding_total - right
        zeros = None
        if self.pad_mode == 'constant' and left == right:
            # The convolution pads symmetric zeros itself, without a copy of x.
            zeros = left
            left = right = 0
        padded = pad1d(x, (left, right + extra), self.pad_mode)
        if activation is not None:
            # Without padding, `padded` is the caller's tensor, which must not be overwritten.
            padded = activation(x) if padded is x else activation.overwrite(padded)
        return self.conv(padded, zeros)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Output i reads inputs i * stride - left + j * dilation, 0 <= j < kernel; see `reach`."""
        if not isinstance(self.conv.norm, nn.Identity):  # averages over all time
            return Reach(-math.inf, math.inf)
        conv = self.conv.conv
        left = self.padding_total - (0 if self.causal else self.padding_total // 2)
        end = (conv.kernel_size[0] - 1) * conv.dilation[0]
        return Reach(first * self.stride - left, last * self.stride - left + end)


class Layers(nn.Sequential):
    """Sequential layers; an ELU before a `StreamableConv1d` is computed by the convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the input of the first layer to the output of the last."""
        layers = list(self)
        pending = None  # the ELU that the next layer computes
        for layer, following in zip(layers, [*layers[1:], None]):
            if isinstance(layer, ELU) and isinstance(following, StreamableConv1d):
                pending = layer
            elif pending is not None:
                x = layer(x, pending)
                pending = None
            else:
                x = layer(x)
        return x


class StreamableConvTranspose1d(nn.Module):
    """Transposed convolution with exactly T * stride output samples, except with `trim_odd`.

    The kernel_size - stride excess samples are trimmed. A causal convolution trims
    ceil(trim_right_ratio * (kernel_size - stride)) of them on the right and the rest on the left.
    Others trim half of them on each side, with an odd one on the left. The number of samples
    trimmed on the left is the lookahead of the output.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: taps of the kernel, at least the stride.
        stride: samples per frame.
        causal: whether samples depend on no later frames.
        norm: one of `norm.CONV_NORMS`.
        trim_right_ratio: fraction trimmed on the right, in [0, 1]; must be 1 unless causal.
        norm_kwargs: arguments of the normalization.
        groups: see `torch.nn.ConvTranspose1d`.
        bias: see `torch.nn.ConvTranspose1d`.
        trim_odd: if the excess is odd, trim one sample more on the right, as DAC does: the output
            has T * stride - 1 samples. Not causal only.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        causal: bool = False,
        norm: str = 'none',
        trim_right_ratio: float = 1.0,
        norm_kwargs: Mapping[str, Any] | None = None,
        groups: int = 1,
        bias: bool = True,
        trim_odd: bool = False,
    ) -> None:
        super().__init__()
        sizes = {
            'in_channels': in_channels,
            'out_channels': out_channels,
            'kernel_size': kernel_size,
            'stride': stride,
            'groups': groups,
        }
        for name, value in sizes.items():
            require_int(name, value)
        trimmed = kernel_size - stride
        if trimmed < 0:
            raise ValueError(
                f'kernel_size={kernel_size} leaves gaps at stride={stride}: it must be at least '
                'the stride'
            )
        if not 0.0 <= trim_right_ratio <= 1.0:
            raise ValueError(
                f'trim_right_ratio={trim_right_ratio!r}: expected a number from 0 to 1'
            )
        if not causal and trim_right_ratio != 1.0:
            raise ValueError(
                f'trim_right_ratio={trim_right_ratio!r} needs causal=True: a non-causal '
                'convolution trims both sides equally and accepts only 1.0'
            )
        # Not causal: an odd sample is trimmed on the left, where StreamableConv1d pads it.
        right = math.ceil(trimmed * trim_right_ratio) if causal else trimmed // 2
        left = trimmed - right
        if trim_odd and causal:
            raise ValueError('trim_odd=True needs causal=False: it trims both sides equally')
        self.trims = (left, left if trim_odd else right)
        self.convtr = NormConvTranspose1d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            groups=groups,
            bias=bias,
            causal=causal,
            norm=norm,
            norm_kwargs=norm_kwargs,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in_channels, T] to [B, out_channels, T * stride], see also `trim_odd`."""
        return unpad1d(self.convtr(x), self.trims)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Output i reads inputs j with 0 <= i + left - j * stride < kernel; see `reach`."""
        if not isinstance(self.convtr.norm, nn.Identity):
            return Reach(-math.inf, math.inf)
        stride, kernel = self.convtr.convtr.stride[0], self.convtr.convtr.kernel_size[0]
        left = self.trims[0]
        return overlapping(first + left, last + left, kernel, stride)
