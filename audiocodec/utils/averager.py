"""Means of metrics over updates that stay on the device until a line is written."""

from collections.abc import Mapping
from typing import Any

import torch

from audiocodec.utils import distrib


class Averager:
    """Weighted running means of scalar tensors, and of 1-d ones: `name` with K values is read as `name_1` ... `name_K`.

    An update adds one stacked tensor to a sum, without waiting for the device; `read` copies all sums at once.
    Metrics may come in groups with different keys (a loss computed every other update): each key is averaged over
    the updates in which it appeared.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}
        self._weights: dict[tuple[str, ...], float] = {}

    def update(self, metrics: Mapping[str, torch.Tensor], weight: float = 1.) -> None:
        """Add 0-d and 1-d tensors, counted `weight` times (e.g. the number of items they are the mean of)."""
        if not metrics:
            return
        keys = tuple(key for name, value in metrics.items() for key in _keys(name, value))
        values = torch.cat([value.detach().float().reshape(-1) for value in metrics.values()]).double() * weight
        if keys in self._sums:
            self._sums[keys] += values
            self._weights[keys] += weight
        else:
            self._sums[keys], self._weights[keys] = values, weight

    def read(self, over_workers: bool = False) -> dict[str, float]:
        """The means so far, in one copy from the device.

        Args:
            over_workers: combine all workers' sums, also of workers that saw no batch; every worker must call it.
        """
        groups = self._groups()
        if over_workers:
            groups = [group for gathered in distrib.all_gather_object(groups) for group in gathered]
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        for keys, values, weight in groups:
            for key, value in zip(keys, values):
                sums[key] = sums.get(key, 0.) + value
                weights[key] = weights.get(key, 0.) + weight
        return {key: value / weights[key] for key, value in sums.items()}

    def _groups(self) -> list[tuple[tuple[str, ...], list[float], float]]:
        """(keys, sums, weight) of each group of metrics that came together."""
        if not self._sums:
            return []
        values = iter(torch.cat(list(self._sums.values())).tolist())
        return [(keys, [next(values) for _ in keys], weight) for keys, weight in self._weights.items()]

    def state_dict(self) -> dict[str, Any]:
        """Exact sums, so that an epoch's means survive an interruption."""
        return {'groups': [{'keys': list(keys), 'sums': self._sums[keys].cpu(), 'weight': self._weights[keys]}
                           for keys in self._sums]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._sums = {tuple(group['keys']): group['sums'] for group in state['groups']}
        self._weights = {tuple(group['keys']): group['weight'] for group in state['groups']}


def _keys(name: str, value: torch.Tensor) -> list[str]:
    """The names under which the values of a metric are read."""
    return [name] if value.dim() == 0 else [f'{name}_{index}' for index in range(1, len(value) + 1)]
