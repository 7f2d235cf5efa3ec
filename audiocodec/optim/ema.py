"""Exponential moving average of the weights of a module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ModuleEMA:
    """Averages the weights of a module, and swaps the averages in for validation and export.

    Parameters and floating-point buffers in the module's `state_dict` are averaged (codebooks are
    buffers). Not averaged are integer and boolean buffers, and buffers of parametrizations: the
    singular vectors of a spectral norm would no longer have unit length. Within `averaged()`, these
    have the module's current values.

    With `unbias`, the n-th average is sum_k decay^(n - k) w_k / sum_k decay^(n - k): the first
    update replaces the initial weights, and early averages are means of the few updates so far.
    Otherwise, the weight of the initial values decreases by the factor `decay` in every update.

    Args:
        module: module to average, on its final device.
        decay: decay per update of the average, in [0, 1).
        every: number of calls of `step` per update of the average.
        unbias: whether the first update replaces the initial weights.
        share: the average spans no more than about this share of the updates so far, so that early
            averages do not lag behind a model that changes fast: the n-th update decays by at most
            share n / (1 + share n). Similar to the averages of Karras et al., arXiv 2312.02696,
            section 3.1, up to the span of `decay`. None: no such limit.

    Raises:
        ValueError: `decay`, `every` or `share` out of range, or a module with nothing to average.
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float = 0.99,
        every: int = 1,
        unbias: bool = True,
        share: float | None = None,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f'decay must be in [0, 1), got {decay}')
        if every < 1:
            raise ValueError(f'every must be at least 1, got {every}')
        if share is not None and not 0 < share <= 1:
            raise ValueError(f'share must be in (0, 1], or null for no limit, got {share}')
        self.module = module
        self.decay = decay
        self.every = every
        self.unbias = unbias
        self.share = share
        self.calls = 0
        self.count = 0.0
        self._owners = _averaged_attributes(module)
        self.averages = {name: value.clone() for name, value in self._live().items()}
        if not self.averages:
            raise ValueError(
                f'{type(module).__name__} has neither parameters nor floating-point buffers to '
                'average'
            )
        self._swapped_in = False

    def restart(self) -> None:
        """Start over from the module's current weights, as after loading them."""
        self.calls, self.count = 0, 0.0
        self.averages = {name: value.clone() for name, value in self._live().items()}

    def step(self) -> None:
        """Add the current weights to the average; to be called after every update of the module."""
        assert not self._swapped_in, (
            'the module holds its averaged weights: step() would average them with themselves'
        )
        self.calls += 1
        if self.calls % self.every:
            return
        # Sum of the weights of all updates so far, decay^(n - k).
        decay = self.decay
        if self.share is not None:
            span = self.share * (self.calls // self.every)
            decay = min(decay, span / (1 + span))
        self.count = self.count * decay + 1
        weight = 1 / self.count if self.unbias else 1 - decay
        live = self._live()
        torch._foreach_lerp_(
            list(self.averages.values()), [live[name] for name in self.averages], weight
        )

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Swap the averaged weights into the module, in place; restore its own at the end.

        They are also restored after an error.

        Yields:
            The module.
        """
        assert not self._swapped_in, (
            'averaged() is already in use: the module holds its averaged weights'
        )
        live = self._live()
        targets = [live[name] for name in self.averages]
        own = [target.clone() for target in targets]
        self._swapped_in = True
        try:
            torch._foreach_copy_(targets, list(self.averages.values()))
            yield self.module
        finally:
            torch._foreach_copy_(targets, own)
            self._swapped_in = False

    def state_dict(self) -> dict[str, Any]:
        """Return the averages (not copied) and the counters."""
        return {'averages': dict(self.averages), 'count': self.count, 'calls': self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state.

        Args:
            state: result of `state_dict()`.

        Raises:
            ValueError: the state belongs to another module.
        """
        averages = state['averages']
        wrong = [
            name
            for name in self.averages.keys() & averages.keys()
            if self.averages[name].shape != averages[name].shape
        ]
        missing = self.averages.keys() - averages.keys()
        unexpected = averages.keys() - self.averages.keys()
        if wrong or missing or unexpected:
            raise ValueError(
                f'the averaged weights do not fit this {type(self.module).__name__}: '
                f'missing {sorted(missing)}, unexpected {sorted(unexpected)}, '
                f'of another shape {sorted(wrong)}'
            )
        for name, value in self.averages.items():
            value.copy_(averages[name])
        self.count = state['count']
        self.calls = state['calls']

    def _live(self) -> dict[str, torch.Tensor]:
        """Return the module's current tensors by name.

        They are looked up in each call because a module may replace a tensor.
        """
        return {
            name: getattr(owner, attribute).detach()
            for name, (owner, attribute) in self._owners.items()
        }


def _averaged_attributes(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return owner and attribute of each tensor to average, by its key in the state dict.

    Shared tensors appear once.
    """
    owners = {}
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        tensors = [*owner.named_parameters(recurse=False)]
        # Buffers of parametrizations are not averaged, see `ModuleEMA`.
        if 'parametrizations' not in prefix.split('.'):
            tensors += owner.named_buffers(recurse=False)
        for attribute, value in tensors:
            if attribute in owner._non_persistent_buffers_set or id(value) in seen:
                continue
            seen.add(id(value))
            if value.is_floating_point():
                owners[f'{prefix}.{attribute}' if prefix else attribute] = (owner, attribute)
    return owners
