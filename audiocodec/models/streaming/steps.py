"""Steps of a stream: layers that are fed in pieces and compute what can be computed so far.

The weights are in the steps and what they remember is in a state apart, so that one network serves
any number of streams, whose states can be saved, copied and divided by items.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.models.cpu.layers import Block, Conv, ConvTranspose
from audiocodec.models.cpu.parts import Layer
from audiocodec.models.cpu.products import Product, make_product

# What a step remembers: integers, tensors [B, ...], None for a tensor not known yet, and states of
# inner steps in a list.
State = dict[str, Any]

_ENDLESS = 2**60  # length of a signal that goes on


class Step(ABC):
    """A layer, or several, for signals in pieces."""

    @abstractmethod
    def start(self) -> State:
        """Return the state before the first input."""

    @abstractmethod
    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """Take the next inputs and compute all outputs that became possible.

        Args:
            state: changed in place. Its tensors may be, too.
            x: [B, T, C], T >= 1; None: no input.
            end: True if the signal ends here.

        Returns:
            [B, n, C'], n >= 1; None: no output.
        """

    @abstractmethod
    def settle(self, state: State) -> None:
        """Reduce counts to what matters, so that signals in the same phase have the same state."""

    def needs(self, stop: int) -> int:
        """Return how many inputs of a signal must be known to compute the outputs to `stop`."""
        return stop

    def ready(self, known: int) -> int:
        """Return how many outputs can be computed if `known` inputs are, before the end."""
        return known


class LayerStep(Step):
    """A layer that keeps the inputs that outputs to come depend on.

    Args:
        layer: one without an obstacle. It is changed: its activation becomes a part of the step, so
            that no input is activated twice, and its convolution a `Product`.
    """

    def __init__(self, layer: Layer) -> None:
        assert not layer.obstacle, layer.obstacle
        self.layer = layer
        self.activation: nn.Module | None = None
        self.product: Product | None = None
        self.repeats = layer.repeats()
        if isinstance(layer, Conv | ConvTranspose):
            self.activation, layer.activation = layer.activation, None
            self.product = layer.use_product()
        # inputs from one window to the next, outputs of a window, inputs of a window
        self.hop, self.gain, span = 1, 1, 1
        # the first output that reads no padding before the signal
        self.padded = 0
        if isinstance(layer, ConvTranspose):
            self.gain, span = layer.stride, layer.reach + 1
            self.padded = layer.reach * layer.stride - layer.trim
        elif isinstance(layer, Conv):
            self.hop, span = layer.stride, layer.covered
            self.padded = -(-layer.left // layer.stride)
        self.settled = self.padded + span + self.repeats
        if span - self.hop < self.repeats:
            self.product = None  # it would have to keep more than a window

    def start(self) -> State:
        """See `Step`."""
        return {'rows': None, 'known': 0, 'done': 0}

    def settle(self, state: State) -> None:
        """See `Step`."""
        # far from the start, whole windows make no difference
        windows = max(0, state['done'] // self.gain - self.settled)
        state['done'] -= windows * self.gain
        state['known'] -= windows * self.hop

    def needs(self, stop: int) -> int:
        """See `Step`."""
        return self.layer.needs(stop)

    def ready(self, known: int) -> int:
        """See `Step`."""
        return self.layer.ready(known)

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        rows = state['rows']
        if x is not None:
            state['known'] += x.shape[1]
            if self.activation is not None:
                x = self.activation.forward(x)
            rows = x if rows is None else torch.cat((rows, x), 1)
        if self.product is not None and state['done'] >= self.padded and not end:
            return self._windows(state, rows, self.product)
        known, done = state['known'], state['done']
        stop = self.layer.frames(known) if end else self.layer.ready(known)
        y = None
        if known and stop > done:
            y = self._part(rows, known, done, stop, end)
            state['done'] = done = stop
        start = self._repeating(done, known)
        kept = known - max(0, self.layer.reads(start, start + 1)[0])
        state['rows'] = rows[:, -kept:] if kept > 0 and rows is not None else None
        return y

    def _windows(self, state: State, rows: torch.Tensor, product: Product) -> torch.Tensor | None:
        """Return the outputs of whole windows of inputs, of which the first one starts with `rows`.

        The same as the general case, with less work for Python.
        """
        frames = rows.shape[1]
        count = (frames - product.span) // self.hop + 1
        if count < 1:
            state['rows'] = rows
            return None
        state['done'] += count * self.gain
        read = count * self.hop
        state['rows'] = rows[:, read:] if read < frames else None
        y = product.of_rows(rows)
        return y if self.gain == 1 else y.reshape(y.shape[0], -1, self.layer.width)

    def _part(
        self, rows: torch.Tensor, known: int, done: int, stop: int, end: bool
    ) -> torch.Tensor:
        """Return the outputs `done` to `stop`."""
        offset = known - rows.shape[1]
        start = self._repeating(done, known) if end else done
        first, last = self.layer.reads(start, stop)
        part = rows[:, max(0, first) - offset : min(last, known) - offset].transpose(1, 2)
        y = self.layer.part(part, start, stop, known if end else _ENDLESS, owned=False)
        return y[..., done - start :].transpose(1, 2)

    def _repeating(self, start: int, known: int) -> int:
        """Return an output up to `start` that reads what padding after the last input repeats."""
        while start > 0 and self.layer.reads(start, start + 1)[0] > known - self.repeats:
            start -= 1
        return start


class BlockStep(Step):
    """A residual block, whose shortcut waits for the branch."""

    def __init__(self, block: Block) -> None:
        self.branch = Steps([LayerStep(layer) for layer in block.branch.each()])
        self.shortcut = None if block.shortcut is None else LayerStep(block.shortcut)
        self.last = None
        if block.product is not None:  # its bias is that of the shortcut
            bias = torch.zeros_like(block.product.bias)
            self.last = make_product(block.product.matrix(), bias)

    def start(self) -> State:
        """See `Step`."""
        shortcut = [] if self.shortcut is None else [self.shortcut.start()]
        return {'inner': [self.branch.start(), *shortcut], 'waiting': None}

    def settle(self, state: State) -> None:
        """See `Step`."""
        self.branch.settle(state['inner'][0])
        if self.shortcut is not None:
            self.shortcut.settle(state['inner'][1])

    def needs(self, stop: int) -> int:
        """See `Step`."""
        return self.branch.needs(stop)  # includes what the shortcut needs

    def ready(self, known: int) -> int:
        """See `Step`."""
        return self.branch.ready(known)

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        y = self.branch.advance(state['inner'][0], x, end)
        if self.shortcut is not None:
            x = self.shortcut.advance(state['inner'][1], x, end)
        waiting = joined(state['waiting'], x)
        if y is None:
            state['waiting'] = waiting
            return None
        assert waiting is not None
        items, frames, channels = y.shape
        if self.last is not None:
            y = self.last(y.reshape(-1, channels)).view(items, frames, -1)
        if waiting.shape[1] == frames:
            state['waiting'] = None
            return y.add_(waiting)
        state['waiting'] = waiting[:, frames:]
        return y.add_(waiting[:, :frames])


class FinalZeros(Step):
    """Zeros after the signal: to whole frames, or a fixed number.

    Args:
        frame: samples of a frame.
        more: zeros after a signal of whole frames.
    """

    def __init__(self, frame: int, more: int = 0) -> None:
        self.frame = frame
        self.more = more

    def start(self) -> State:
        """See `Step`."""
        return {'known': 0, 'empty': None}

    def settle(self, state: State) -> None:
        """See `Step`."""
        if state['known'] > self.frame:
            state['known'] = self.frame + state['known'] % self.frame

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        if x is not None:
            state['known'] += x.shape[1]
            state['empty'] = x[:, :0]
        if end and state['known']:
            missing = self.more + -(state['known'] + self.more) % self.frame
            if missing:
                empty = state['empty']
                return joined(x, empty.new_zeros(empty.shape[0], missing, empty.shape[2]))
        return x


class Grouped(Step):
    """A function of whole groups of frames; the last group may be shorter.

    Args:
        function: maps [B, C, T] to [B, C', T], as quantizers do.
        group: frames of a group.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], group: int = 1) -> None:
        self.function = function
        self.group = group

    def start(self) -> State:
        """See `Step`."""
        return {'waiting': None}

    def settle(self, state: State) -> None:
        """See `Step`."""

    def needs(self, stop: int) -> int:
        """See `Step`."""
        return -(-stop // self.group) * self.group

    def ready(self, known: int) -> int:
        """See `Step`."""
        return known // self.group * self.group

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        x = joined(state['waiting'], x)
        if x is None:
            return None
        whole = x.shape[1] if end else self.ready(x.shape[1])
        state['waiting'] = x[:, whole:] if whole < x.shape[1] else None
        return self.function(x[:, :whole].transpose(1, 2)).transpose(1, 2) if whole else None


class Steps(Step):
    """Steps one after the other.

    Args:
        steps: at least one.
        scale: the signals between them are multiplied by this.
    """

    def __init__(self, steps: Sequence[Step], scale: float = 1.0) -> None:
        self.steps = steps
        self.scale = scale

    def start(self) -> State:
        """See `Step`."""
        return {'inner': [step.start() for step in self.steps]}

    def settle(self, state: State) -> None:
        """See `Step`."""
        for step, inner in zip(self.steps, state['inner']):
            step.settle(inner)

    def needs(self, stop: int) -> int:
        """See `Step`."""
        for step in reversed(self.steps):
            stop = step.needs(stop)
        return stop

    def ready(self, known: int) -> int:
        """See `Step`."""
        for step in self.steps:
            known = step.ready(known)
        return known

    def advance(self, state: State, x: torch.Tensor | None, end: bool) -> torch.Tensor | None:
        """See `Step`."""
        if x is not None and self.scale != 1:
            x = x * self.scale
        for step, inner in zip(self.steps, state['inner']):
            if x is None and not end:
                return None
            x = step.advance(inner, x, end)
        return x if x is None or self.scale == 1 else x / self.scale


def joined(first: torch.Tensor | None, then: torch.Tensor | None) -> torch.Tensor | None:
    """Concatenate [B, T, C], each of which may be missing."""
    if first is None or then is None:
        return then if first is None else first
    return torch.cat((first, then), 1)
