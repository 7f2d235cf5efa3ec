"""Computing a part of a layer's output: for long signals part by part, and for streams."""

import math
from collections.abc import Iterable
from itertools import pairwise, product
from typing import cast

import torch
from torch import nn

_PART = 2**21  # values of the largest tensor of a part
_OVERLAP = 1 / 8  # largest fraction of a part that is also computed for its neighbor


class Layer(nn.Module):
    """Layer that can compute a part of its output.

    Attributes:
        width: channels of its output, 0 for an activation.
        obstacle: why an output frame depends on more than it `reads`, so that parts are not exact;
            empty if it does not.
        local: True if computing parts is exact, and efficient.
    """

    width: int
    obstacle: str
    local: bool

    def frames(self, length: int) -> int:
        """Return the number of output frames for `length` input frames."""
        return length

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of input frames that the outputs start to stop depend on.

        It may extend before and after the signal, where there is padding.
        """
        raise NotImplementedError

    def needs(self, stop: int) -> int:
        """Return how many input frames of a signal must be known to compute the outputs to stop."""
        return self.reads(0, stop)[1]

    def ready(self, known: int) -> int:
        """Return how many outputs can be computed if `known` input frames are; inverts `needs`."""
        return known

    def repeats(self) -> int:
        """Return the most input frames at the end of a signal that padding after it repeats."""
        return 0

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """Compute the outputs start to stop.

        Args:
            x: [B, C, T], the input frames that they read, as far as these are in the signal.
            start: first output frame.
            stop: output frame after the last one.
            length: input frames of the whole signal.
            owned: True if x may be overwritten.

        Returns:
            [B, width, stop - start].
        """
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, width, frames(T)]."""
        return self.part(x, 0, self.frames(x.shape[-1]), x.shape[-1], owned=False)

    def _padding(self, x: torch.Tensor, start: int, stop: int, length: int) -> tuple[int, int]:
        """Return the padding before and after the signal that outputs read; arguments as `part`."""
        first, last = self.reads(start, stop)
        left, right = max(0, -first), max(0, last - length)
        assert x.shape[-1] == min(last, length) - max(first, 0), (x.shape, first, last, length)
        return left, right


class Chain(Layer):
    """Sequence of layers, computed part by part.

    Args:
        layers: at least one.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.width = self.each()[-1].width
        self.obstacle = next(filter(None, (layer.obstacle for layer in self.each())), '')
        self.local = all(layer.local for layer in self.each())

    def each(self) -> list[Layer]:
        """Return the layers."""
        return list(cast(Iterable[Layer], self.layers))

    def _lengths(self, length: int) -> list[int]:
        """Return the numbers of frames before the first layer and after each layer."""
        lengths = [length]
        for layer in self.each():
            lengths.append(layer.frames(lengths[-1]))
        return lengths

    def frames(self, length: int) -> int:
        """See `Layer`."""
        return self._lengths(length)[-1]

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """See `Layer`."""
        for layer in reversed(self.each()):
            start, stop = layer.reads(start, stop)
        return start, stop

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """See `Layer`."""
        layers = self.each()
        lengths = self._lengths(length)
        offset = max(0, self.reads(start, stop)[0])
        bounds = [(start, stop)]  # of the last layer's output, then of each layer's input, backward
        for layer, frames in zip(reversed(layers), reversed(lengths[:-1])):
            start, stop = layer.reads(start, stop)
            start, stop = max(0, start), min(frames, stop)
            bounds.append((start, stop))
        # less than `reads` says, because layers in between pad
        x = x[..., start - offset : stop - offset]
        for layer, frames, (start, stop) in zip(layers, lengths, bounds[-2::-1]):
            x = layer.part(x, start, stop, frames, owned)
            owned = True
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, width, frames(T)]."""
        lengths = self._lengths(x.shape[-1])
        values = max(1, *(layer.width * frames for layer, frames in zip(self.each(), lengths[1:])))
        first, last = self.reads(0, 1)
        count = max(1, min(math.ceil(values / _PART), int(_OVERLAP * lengths[0] / (last - first))))
        bounds = [index * lengths[-1] // count for index in range(count + 1)]
        y: torch.Tensor | None = None
        size = max(1, _PART // values)
        for item, (start, stop) in product(range(0, len(x), size), pairwise(bounds)):
            first, last = self.reads(start, stop)
            part = self.part(
                x[item : item + size, :, max(0, first) : last], start, stop, lengths[0], owned=False
            )
            y = part.new_empty(len(x), lengths[-1], part.shape[1]) if y is None else y
            y[item : item + size, start:stop] = part.transpose(1, 2)
        assert y is not None
        return y.transpose(1, 2)
