"""Which inputs an output depends on, computed from the layers: kernel, stride, dilation, padding,
trimming.
"""

import math
from typing import NamedTuple

from torch import nn

from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock


class Reach(NamedTuple):
    """Indices of the inputs that some outputs depend on, both ends included; an infinite end has no
    bound.

    Away from the borders: at the start and the end of a signal, padding takes the place of indices
    that do not exist.
    """

    first: float
    last: float


def reads(module: nn.Module, first: float, last: float, recurrence: bool = True) -> Reach:
    """The inputs that the outputs `first` to `last` of a module depend on.

    Args:
        module: an encoder or decoder of SEANet, or one of the layers they are made of.
        first: index of an output.
        last: index of an output, not before `first`.
        recurrence: whether an LSTM counts, which depends on everything before; if not, it is taken
            as if it had no memory.

    Raises:
        ValueError: a module whose layers are not known here.
    """
    if isinstance(module, SEANetEncoder | SEANetDecoder):
        return reads(module.model, first, last, recurrence)
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            first, last = reads(layer, first, last, recurrence)
        return Reach(first, last)
    if isinstance(module, SEANetResnetBlock):
        around, through = (
            reads(branch, first, last, recurrence) for branch in (module.shortcut, module.block)
        )
        return Reach(min(around.first, through.first), max(around.last, through.last))
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
    """Output i reads the inputs i * stride - left + j * dilation, j from 0 to kernel - 1, `left`
    being the padding.
    """
    if not isinstance(layer.conv.norm, nn.Identity):  # it averages over all time
        return Reach(-math.inf, math.inf)
    conv = layer.conv.conv
    left = layer.padding_total - (0 if layer.causal else layer.padding_total // 2)
    end = (conv.kernel_size[0] - 1) * conv.dilation[0]
    return Reach(first * layer.stride - left, last * layer.stride - left + end)


def _transposed(layer: StreamableConvTranspose1d, first: float, last: float) -> Reach:
    """Output i reads the inputs j with 0 <= i + left - j * stride < kernel, `left` being what is
    trimmed.
    """
    if not isinstance(layer.convtr.norm, nn.Identity):
        return Reach(-math.inf, math.inf)
    stride, kernel = layer.convtr.convtr.stride[0], layer.convtr.convtr.kernel_size[0]
    left = layer.trims[0]
    return Reach(_ceil((first + left - kernel + 1) / stride), _floor((last + left) / stride))


def _ceil(value: float) -> float:
    return math.ceil(value) if math.isfinite(value) else value


def _floor(value: float) -> float:
    return math.floor(value) if math.isfinite(value) else value
