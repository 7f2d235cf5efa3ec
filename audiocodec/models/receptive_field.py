"""Compute receptive fields from the layers: kernel, stride, dilation, padding, trimming."""

import math
from typing import NamedTuple

from torch import nn

from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock


class Reach(NamedTuple):
    """Range of inputs that some outputs depend on, both ends included; unbounded ends are infinite.

    Indices may lie outside the signal: padding supplies those inputs.
    """

    first: float
    last: float


def reads(module: nn.Module, first: float, last: float, recurrence: bool = True) -> Reach:
    """Return the inputs that the outputs `first` to `last` of a module depend on.

    Args:
        module: a SEANet encoder or decoder, or one of their layers.
        first: index of the first output.
        last: index of the last output, at least `first`.
        recurrence: count the memory of an LSTM, which depends on all previous inputs; if False,
            the LSTM is treated as memoryless.

    Raises:
        ValueError: the module has layers that are not known here.
    """
    if isinstance(module, SEANetEncoder | SEANetDecoder):
        return reads(module.model, first, last, recurrence)
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            first, last = reads(layer, first, last, recurrence)
        return Reach(first, last)
    if isinstance(module, SEANetResnetBlock):
        shortcut = reads(module.shortcut, first, last, recurrence)
        block = reads(module.block, first, last, recurrence)
        return Reach(min(shortcut.first, block.first), max(shortcut.last, block.last))
    if isinstance(module, StreamableConv1d):
        return _conv(module, first, last)
    if isinstance(module, StreamableConvTranspose1d):
        return _transposed(module, first, last)
    if isinstance(module, StreamableLSTM):
        return Reach(-math.inf if recurrence else first, last)
    if isinstance(module, nn.Identity) or any(
        kind.__module__ == 'torch.nn.modules.activation' for kind in type(module).__mro__
    ):
        return Reach(first, last)
    raise ValueError(f'the receptive field of {type(module).__name__} is not known')


def _conv(layer: StreamableConv1d, first: float, last: float) -> Reach:
    """Output i reads inputs i * stride - left + j * dilation, 0 <= j < kernel (left: padding)."""
    if not isinstance(layer.conv.norm, nn.Identity):  # averages over all time
        return Reach(-math.inf, math.inf)
    conv = layer.conv.conv
    left = layer.padding_total - (0 if layer.causal else layer.padding_total // 2)
    end = (conv.kernel_size[0] - 1) * conv.dilation[0]
    return Reach(first * layer.stride - left, last * layer.stride - left + end)


def _transposed(layer: StreamableConvTranspose1d, first: float, last: float) -> Reach:
    """Output i reads inputs j with 0 <= i + left - j * stride < kernel (left: trimmed samples)."""
    if not isinstance(layer.convtr.norm, nn.Identity):
        return Reach(-math.inf, math.inf)
    stride, kernel = layer.convtr.convtr.stride[0], layer.convtr.convtr.kernel_size[0]
    left = layer.trims[0]
    return Reach(_ceil((first + left - kernel + 1) / stride), _floor((last + left) / stride))


def _ceil(value: float) -> float:
    return math.ceil(value) if math.isfinite(value) else value


def _floor(value: float) -> float:
    return math.floor(value) if math.isfinite(value) else value
