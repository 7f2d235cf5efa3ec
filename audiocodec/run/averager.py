"""Means of metrics over updates that stay on the device until a line is written."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from audiocodec.utils import distrib

_Group = tuple[tuple[str, int], ...]
_Sums = dict[_Group, list[float]]  # a sum for each figure of a group, and that of the weights


class Averager:
    """Weighted running means of scalars, and of one scalar for each level.

    An update adds one stacked tensor to a sum, without waiting for the device; `read` copies all
    sums at once. Metrics may come in groups with different keys (a loss computed every other
    update): each key is averaged over the updates in which it appeared.
    """

    def __init__(self) -> None:
        # names and sizes of the metrics that come together -> their sums and the sum of their
        # weights, in float64
        self._sums: dict[_Group, torch.Tensor] = {}
        self._marks: _Sums = {}  # the sums at the last call of `read_recent`

    def update(
        self,
        metrics: Mapping[str, torch.Tensor],
        weight: float = 1.0,
        where: torch.Tensor | None = None,
    ) -> None:
        """Add tensors, counted `weight` times (e.g. the number of items they are the mean of).

        Args:
            metrics: 0-d; or [K], one figure for each of K levels, which are read as `NAME_1` to
                `NAME_K`.
            weight: see above.
            where: 0-d, boolean: whether to count them; decided on the device.
        """
        if not metrics:
            return
        group = tuple(
            (name, value.numel() if value.dim() else 0) for name, value in metrics.items()
        )
        values = torch.cat(
            [value.detach().float().reshape(-1) for value in metrics.values()]
        ).double()
        values = torch.cat([values, values.new_ones(1)]) * weight
        if where is not None:
            values = torch.where(where, values, 0.0)
        if group in self._sums:
            self._sums[group] += values
        else:
            self._sums[group] = values

    def read(self, over_workers: bool = False) -> dict[str, float]:
        """The means so far, in one copy from the device.

        Args:
            over_workers: combine all workers' sums, also of workers that saw no batch; every worker
                must call it.
        """
        sums = self._read_sums()
        return _means(distrib.all_gather_object(sums) if over_workers else [sums])

    def read_recent(self) -> dict[str, float]:
        """Returns the means since the last call, in one copy from the device, without those that
        nothing was added to.

        The first call after `load_state_dict` goes back to what was loaded.
        """
        sums = self._read_sums()
        recent = {}
        for group, values in sums.items():
            before = self._marks.get(group, [0.0] * len(values))
            recent[group] = [value - mark for value, mark in zip(values, before)]
        self._marks = sums
        return {name: mean for name, mean in _means([recent]).items() if not math.isnan(mean)}

    def _read_sums(self) -> _Sums:
        """Copies all sums from the device at once."""
        if not self._sums:
            return {}
        values = iter(torch.cat(list(self._sums.values())).tolist())
        return {
            group: [next(values) for _ in range(len(sums))] for group, sums in self._sums.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Exact sums, so that an epoch's means survive an interruption."""
        return {
            'groups': [
                {'metrics': [list(metric) for metric in group], 'sums': sums.cpu()}
                for group, sums in self._sums.items()
            ]
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = 'cpu') -> None:
        """Restore what `state_dict` gave, on the device of the metrics to come."""
        self._sums = {
            tuple((name, size) for name, size in group['metrics']): group['sums'].to(device)
            for group in state['groups']
        }
        self._marks = self._read_sums()

    @staticmethod
    def merge(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The state of one averager that had all the updates of several."""
        sums: dict[_Group, torch.Tensor] = {}
        for group in (group for state in states for group in state['groups']):
            key = tuple((name, size) for name, size in group['metrics'])
            sums[key] = sums[key] + group['sums'] if key in sums else group['sums']
        return {
            'groups': [
                {'metrics': [list(metric) for metric in key], 'sums': value}
                for key, value in sums.items()
            ]
        }


def _means(workers: Sequence[_Sums]) -> dict[str, float]:
    """The means over some sets of sums, NaN where the weights are 0."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for groups in workers:
        for group, (*values, weight) in groups.items():
            names = [name for key, size in group for name in _expanded(key, size)]
            for name, value in zip(names, values):
                sums[name] = sums.get(name, 0.0) + value
                weights[name] = weights.get(name, 0.0) + weight
    return {
        name: value / weights[name] if weights[name] else math.nan for name, value in sums.items()
    }


def _expanded(name: str, size: int) -> list[str]:
    return [f'{name}_{level}' for level in range(1, size + 1)] if size else [name]
