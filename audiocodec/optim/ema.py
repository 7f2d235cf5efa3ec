"""Exponential moving average of the weights of a module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ModuleEMA:
    """Keeps the moving average of what a module learns, and lends it to the module for validation
    and export.

    Averaged are the parameters and the floating buffers that the module's `state_dict` holds
    (codebooks are buffers). Integer and boolean buffers have no mean, nor have those of a
    parametrization, such as the singular vectors of a spectral norm, which would lose their length:
    within `averaged()` they are the module's own, up to date.

    With `unbias`, the n-th average is sum_k decay^(n - k) w_k / sum_k decay^(n - k): the first
    update replaces the initial weights, and the average is a mean of few updates until there are
    many. Without, the initial weights fade by `decay` with every update.

    Args:
        module: the module to average, on its final device.
        decay: decay per update of the average, in [0, 1).
        every: `step()` updates the average on every such call.
        unbias: whether to forget the initial weights at once.

    Raises:
        ValueError: `decay` or `every` out of range, or a module with nothing to average.
    """

    def __init__(
        self, module: nn.Module, decay: float = 0.99, every: int = 1, unbias: bool = True
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f'decay must be in [0, 1), got {decay}.')
        if every < 1:
            raise ValueError(f'every must be at least 1, got {every}.')
        self.module = module
        self.decay = decay
        self.every = every
        self.unbias = unbias
        self.calls = 0
        self.count = 0.0
        self._owners = _averaged_attributes(module)
        self.averages = {name: value.clone() for name, value in self._live().items()}
        if not self.averages:
            raise ValueError(
                f'{type(module).__name__} has neither parameters nor floating buffers to average.'
            )
        self._lent = False

    def restart(self) -> None:
        """Start over from the module's current weights, as after loading them."""
        self.calls, self.count = 0, 0.0
        self.averages = {name: value.clone() for name, value in self._live().items()}

    def step(self) -> None:
        """Take the current weights into the average; called after every update of the module."""
        assert not self._lent, (
            'the module holds its averaged weights: step() would average them with themselves'
        )
        self.calls += 1
        if self.calls % self.every:
            return
        self.count = self.count * self.decay + 1
        weight = 1 / self.count if self.unbias else 1 - self.decay
        live = self._live()
        torch._foreach_lerp_(
            list(self.averages.values()), [live[name] for name in self.averages], weight
        )

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Put the averaged weights into the module, in place, and its own back at the end, also
        after an error.

        Yields:
            The module.
        """
        assert not self._lent, 'averaged() is already in use: the module holds its averaged weights'
        live = self._live()
        targets = [live[name] for name in self.averages]
        own = [target.clone() for target in targets]
        self._lent = True
        try:
            torch._foreach_copy_(targets, list(self.averages.values()))
            yield self.module
        finally:
            torch._foreach_copy_(targets, own)
            self._lent = False

    def state_dict(self) -> dict[str, Any]:
        """The averages (not copied) and the counters."""
        return {'averages': dict(self.averages), 'count': self.count, 'calls': self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state.

        Args:
            state: what `state_dict()` returned.

        Raises:
            ValueError: the state is of another module.
        """
        averages = state['averages']
        wrong = [
            name
            for name in self.averages.keys() & averages.keys()
            if self.averages[name].shape != averages[name].shape
        ]
        missing, unexpected = (
            self.averages.keys() - averages.keys(),
            averages.keys() - self.averages.keys(),
        )
        if wrong or missing or unexpected:
            raise ValueError(
                f'the averaged weights are not those of this {type(self.module).__name__}: '
                f'missing {sorted(missing)}, unexpected {sorted(unexpected)}, '
                f'of another shape {sorted(wrong)}.'
            )
        for name, value in self.averages.items():
            value.copy_(averages[name])
        self.count = state['count']
        self.calls = state['calls']

    def _live(self) -> dict[str, torch.Tensor]:
        """The module's own tensors to average, by name. Looked up each time: a module may bind a
        new tensor.
        """
        return {
            name: getattr(owner, attribute).detach()
            for name, (owner, attribute) in self._owners.items()
        }


def _averaged_attributes(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each tensor to average is held, by its name in the module's state_dict; shared tensors
    once.
    """
    owners = {}
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        tensors = [*owner.named_parameters(recurse=False)]
        if 'parametrizations' not in prefix.split('.'):
            tensors += owner.named_buffers(recurse=False)
        for attribute, value in tensors:
            if attribute in owner._non_persistent_buffers_set or id(value) in seen:
                continue
            seen.add(id(value))
            if value.is_floating_point():
                owners[f'{prefix}.{attribute}' if prefix else attribute] = (owner, attribute)
    return owners
