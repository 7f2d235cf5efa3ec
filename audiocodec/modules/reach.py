"""Receptive fields: which inputs of a layer its outputs depend on, asked of the layer itself."""

import math
from typing import NamedTuple

from torch import nn


class Reach(NamedTuple):
    """Range of inputs that some outputs depend on, both ends included; unbounded ends are infinite.

    Indices may lie outside the signal: padding supplies those inputs.
    """

    first: float
    last: float


def reads(module: nn.Module, first: float, last: float, recurrence: bool = True) -> Reach:
    """Return the inputs that the outputs `first` to `last` of a module depend on.

    Layers that are not pointwise have a method `reads` with the same arguments.

    Args:
        module: a layer, or a network with the method `reads`.
        first: index of the first output.
        last: index of the last output, at least `first`.
        recurrence: count the memory of recurrent layers, which depend on all previous inputs; if
            False, they are treated as memoryless.

    Raises:
        ValueError: the module has layers that are not known here and have no such method.
    """
    own = getattr(module, 'reads', None)
    if own is not None:
        return own(first, last, recurrence)
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            first, last = reads(layer, first, last, recurrence)
        return Reach(first, last)
    if isinstance(module, nn.Conv1d) and isinstance(module.padding, tuple):
        start, end = first * module.stride[0], last * module.stride[0]
        span = (module.kernel_size[0] - 1) * module.dilation[0]
        return Reach(start - module.padding[0], end - module.padding[0] + span)
    if isinstance(module, nn.Identity) or any(
        kind.__module__ == 'torch.nn.modules.activation' for kind in type(module).__mro__
    ):
        return Reach(first, last)
    raise ValueError(f'the receptive field of {type(module).__name__} is not known')


def overlapping(first: float, last: float, length: int, stride: int) -> Reach:
    """Return the pieces that cover the positions `first` to `last`.

    Args:
        first: first position.
        last: last position.
        length: positions per piece; piece i begins at i * stride.
        stride: positions between the beginnings of pieces.
    """
    low, high = (first - length + 1) / stride, last / stride
    return Reach(
        math.ceil(low) if math.isfinite(low) else low,
        math.floor(high) if math.isfinite(high) else high,
    )
