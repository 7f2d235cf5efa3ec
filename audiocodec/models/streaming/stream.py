"""A batch of signals that go through a network in pieces."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from audiocodec.models.streaming.steps import State, Steps
from audiocodec.models.streaming.trees import checked, mapped, merged
from audiocodec.modules.checks import require_int

Own = TypeVar('Own', bound='Stream')


@dataclass
class _Group:
    """Items of a batch that started together and have got the same number of inputs.

    Attributes:
        items: indices in the batch, ascending.
        state: of the network, of these items.
    """

    items: list[int]
    state: State


class Stream(ABC):
    """A network that a batch of signals goes through in pieces.

    Args:
        network: from inputs to outputs.
        batch_size: items.
        block: most inputs computed at once; longer ones are divided.
        nothing: output without frames, [1, C, 0].
        fill: value of outputs that an item does not have.
        sample_rate: of the waveform (Hz).

    Attributes:
        counts: number of outputs of each item in the last result. They may differ once some items
            were reset.
    """

    kind: str

    def __init__(
        self,
        network: Steps,
        batch_size: int,
        block: int,
        nothing: torch.Tensor,
        fill: int,
        sample_rate: int,
    ) -> None:
        require_int('batch_size', batch_size)
        self._network = network
        self._block = block
        self._nothing = nothing.expand(batch_size, -1, -1)
        self._fill = fill
        self._batch_size = batch_size
        self._sample_rate = sample_rate
        self.counts = [0] * batch_size
        self._groups: list[_Group] = []
        self.reset()

    @abstractmethod
    def push(self, values: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Take the next inputs of each item, and return the outputs that became possible."""

    @property
    @abstractmethod
    def latency_samples(self) -> int:
        """Latency in samples; an encoder and a decoder say from when to when."""

    @property
    def latency_ms(self) -> float:
        """`latency_samples` in milliseconds."""
        return 1000 * self.latency_samples / self._sample_rate

    @property
    def batch_size(self) -> int:
        """Items of the batch."""
        return self._batch_size

    def reset(self, items: Sequence[int] | None = None) -> None:
        """Start new signals; what the old ones had not given out is dropped.

        Args:
            items: indices of the items that start anew while the others go on; None: all.

        Raises:
            ValueError: an index out of range.
        """
        everyone = list(range(self._batch_size))
        new = everyone if items is None else sorted(set(items))
        if set(new) - set(everyone):
            raise ValueError(f'items={items}: expected indices from 0 to {self._batch_size - 1}')
        if new == everyone:
            self._groups = []
        for group in list(self._groups):
            self._select(group, [item for item in group.items if item not in new])
        self._groups = [group for group in self._groups if group.items]
        if new:
            self._groups.append(_Group(new, self._network.start()))

    def fork(self: Own) -> Own:
        """Return a stream that goes on from here on its own, with the same weights in memory."""
        other = copy.copy(self)
        other._groups = [_copied(group) for group in self._groups]
        other.counts = list(self.counts)
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return all that the stream remembers: dicts and lists of tensors and integers."""
        groups = [{'items': group.items, 'state': group.state} for group in self._groups]
        return mapped(torch.clone, {'kind': self.kind, 'size': self._batch_size, 'groups': groups})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of another stream of the same model.

        Raises:
            ValueError: it is the state of something else.
        """
        found = (state.get('kind'), state.get('size'))
        if found != (self.kind, self._batch_size):
            raise ValueError(
                f'the state of a stream {found[0]!r} with batch_size={found[1]}: expected '
                f'{self.kind!r} with batch_size={self._batch_size}'
            )
        fresh = self._network.start()
        device = self._nothing.device
        self._groups = [
            _Group(
                list(group['items']),
                mapped(lambda value: value.to(device, copy=True), checked(group['state'], fresh)),
            )
            for group in state['groups']
        ]

    def flush(self) -> torch.Tensor:
        """End the signals and return what is left of their outputs; then new signals start."""
        rest = self._feed(None, [0] * self._batch_size, end=True)
        self.reset()
        return rest

    def _check_items(self, name: str, values: torch.Tensor) -> None:
        if len(values) != self._batch_size:
            raise ValueError(
                f'{name} has {len(values)} items: this stream was made with '
                f'batch_size={self._batch_size}'
            )

    def _select(self, group: _Group, items: list[int]) -> None:
        """Keep only some items of a group."""
        if items == group.items:
            return
        rows = [group.items.index(item) for item in items]
        group.state = mapped(lambda value: value[rows], group.state)
        group.items = items

    def _divide(self, counts: list[int]) -> None:
        """Divide groups whose items get different numbers of inputs."""
        for group in list(self._groups):
            for count in sorted({counts[item] for item in group.items})[1:]:
                part = _copied(group)
                self._select(part, [item for item in group.items if counts[item] == count])
                self._groups.append(part)
            least = min(counts[item] for item in group.items)
            self._select(group, [item for item in group.items if counts[item] == least])

    def _feed(self, x: torch.Tensor | None, counts: list[int], end: bool = False) -> torch.Tensor:
        """Advance all items; see `counts`.

        Args:
            x: [B, C, T]; None: no inputs.
            counts: number of inputs of each item.
            end: True if the signals end here.

        Returns:
            [B, C', n], with the outputs of each item first, then `fill`.
        """
        with torch.inference_mode():  # a tenth faster than `no_grad`
            y = self._computed(x, counts, end)
            self._unite()
        return y.clone(memory_format=torch.contiguous_format)  # an ordinary tensor

    def _computed(self, x: torch.Tensor | None, counts: list[int], end: bool) -> torch.Tensor:
        """See `_feed`."""
        self._divide(counts)
        x = x if x is None else x.clone()  # the caller may overwrite it
        found = [self._advance(group, x, counts[group.items[0]], end) for group in self._groups]
        self.counts = [0] * self._batch_size
        for group, y in zip(self._groups, found):
            for item in group.items:
                self.counts[item] = 0 if y is None else y.shape[-1]
        if len(found) == 1 and found[0] is not None:
            return found[0]
        shape = (*self._nothing.shape[:2], max(self.counts))
        joined = self._nothing.new_full(shape, self._fill)
        for group, y in zip(self._groups, found):
            if y is not None:
                joined[group.items, :, : y.shape[-1]] = y
        return joined

    def _unite(self) -> None:
        """Merge groups that have come into the same phase, such as after a reset."""
        groups, self._groups = self._groups, self._groups[:1]
        for group in groups[1:]:
            for other in self._groups:
                self._network.settle(other.state)
                self._network.settle(group.state)
                state = merged(other.state, group.state)
                if state is not None:
                    items = other.items + group.items
                    other.items, other.state = items, state
                    self._select(other, sorted(items))
                    break
            else:
                self._groups.append(group)

    def _advance(
        self, group: _Group, x: torch.Tensor | None, count: int, end: bool
    ) -> torch.Tensor | None:
        """Advance the items of a group by `count` inputs each, block by block."""
        outputs = []
        own = x if x is None or len(group.items) == len(x) else x[group.items]
        for start in range(0, count, self._block):
            assert own is not None
            block = own[..., start : min(count, start + self._block)].transpose(1, 2)
            outputs.append(self._network.advance(group.state, block, False))
        if end:
            outputs.append(self._network.advance(group.state, None, True))
        some = [y.transpose(1, 2) for y in outputs if y is not None]
        if len(some) < 2:
            return some[0] if some else None
        return torch.cat(some, dim=-1)


def _copied(group: _Group) -> _Group:
    return _Group(list(group.items), mapped(torch.clone, group.state))
