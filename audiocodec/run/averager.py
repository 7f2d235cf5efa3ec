"""Running means of metrics, which stay on the device until they are read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from audiocodec.utils import distrib

_WITHOUT_FLOAT64 = {'mps'}  # devices
_Group = tuple[tuple[str, int], ...]
_Sums = dict[_Group, list[float]]  # a sum for each value of a group, then the sum of weights


class Averager:
    """Weighted running means of scalars, and of vectors with one value per level.

    An update adds one stacked tensor to a sum, without a device synchronization; `read` copies all
    sums at once. Metrics may come in groups with different keys (for example, a loss computed every
    other update): each key is averaged over the updates in which it appeared.
    """

    def __init__(self) -> None:
        # names and sizes of metrics that come together -> their sums and the sum of weights, see
        # `_to_sums`
        self._sums: dict[_Group, torch.Tensor] = {}
        self._marks: _Sums = {}  # the sums at the last call of `read_recent`

    def update(
        self,
        metrics: Mapping[str, torch.Tensor],
        weight: float = 1.0,
        where: torch.Tensor | None = None,
    ) -> None:
        """Add metrics with a weight (e.g. the number of items that they are the mean of).

        Args:
            metrics: 0-d, or [K] with one value for each of K levels, read as `NAME_1` to `NAME_K`.
            weight: see above.
            where: 0-d, boolean, on the device: False to ignore the metrics.
        """
        if not metrics:
            return
        group = tuple(
            (name, value.numel() if value.dim() else 0) for name, value in metrics.items()
        )
        values = torch.cat([value.detach().float().reshape(-1) for value in metrics.values()])
        values = _in_float64_if_possible(torch.cat([values, values.new_ones(1)])) * weight
        if where is not None:
            values = torch.where(where, values, 0.0)
        if group not in self._sums:
            self._sums[group] = _to_sums(values, values.device)
        elif values.dtype == torch.float64:
            self._sums[group] += values
        else:
            self._sums[group] = _compensated(self._sums[group], values)

    def read(self, over_workers: bool = False) -> dict[str, float]:
        """Return the means so far, with one copy from the device.

        Args:
            over_workers: combine the sums of all workers, including those without a batch.
                Collective: every worker must call it.
        """
        sums = self._read_sums()
        return _means(distrib.all_gather_object(sums) if over_workers else [sums])

    def read_recent(self) -> dict[str, float]:
        """Return the means since the last call, with one copy from the device.

        Leaves out metrics without an update since. After `load_state_dict`, the first call returns
        the means since the loaded state.
        """
        sums = self._read_sums()
        recent = {}
        for group, values in sums.items():
            before = self._marks.get(group, [0.0] * len(values))
            recent[group] = [value - mark for value, mark in zip(values, before)]
        self._marks = sums
        return {name: mean for name, mean in _means([recent]).items() if not math.isnan(mean)}

    def _read_sums(self) -> _Sums:
        """Copy all sums from the device at once."""
        if not self._sums:
            return {}
        values = _from_sums(torch.cat(list(self._sums.values()), dim=-1)).tolist()
        read: _Sums = {}
        start = 0
        for group, sums in self._sums.items():
            end = start + sums.shape[-1]
            read[group] = values[start:end]
            start = end
        return read

    def state_dict(self) -> dict[str, Any]:
        """Return the exact sums, so that the means of an epoch survive an interruption."""
        return _to_state({group: _from_sums(sums) for group, sums in self._sums.items()})

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = 'cpu') -> None:
        """Restore a `state_dict`, on the device of future metrics."""
        self._sums = {_key(group): _to_sums(group['sums'], device) for group in state['groups']}
        self._marks = self._read_sums()

    @staticmethod
    def merge(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge the states of several averagers into that of one with all their updates."""
        sums: dict[_Group, torch.Tensor] = {}
        for state in states:
            for group in state['groups']:
                key = _key(group)
                sums[key] = sums[key] + group['sums'] if key in sums else group['sums']
        return _to_state(sums)


def _in_float64_if_possible(values: torch.Tensor) -> torch.Tensor:
    return values if values.device.type in _WITHOUT_FLOAT64 else values.double()


def _to_sums(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return sums [n] on a device: in float64, or as two float32 [2, n] that add up to them."""
    if torch.device(device).type not in _WITHOUT_FLOAT64:
        return values.to(device)
    high = values.float()
    low = (values - high).float()
    return torch.stack([high, low]).to(device)


def _from_sums(sums: torch.Tensor) -> torch.Tensor:
    """Return sums in float64 [n], on the CPU; the inverse of `_to_sums`."""
    sums = sums.cpu().double()
    return sums if sums.dim() == 1 else sums.sum(0)


def _compensated(sums: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Add float32 values [n] to sums [2, n], with the rounding error of the sum in the second.

    See Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
    """
    high, low = sums
    total = high + values
    part = total - high
    error = (high - (total - part)) + (values - part)
    low = low + error
    high = total + low
    return torch.stack([high, low - (high - total)])


def _key(group: Mapping[str, Any]) -> _Group:
    """Return the key of a group in a state dict."""
    return tuple((name, size) for name, size in group['metrics'])


def _to_state(sums: Mapping[_Group, torch.Tensor]) -> dict[str, Any]:
    groups = []
    for key, value in sums.items():
        groups.append({'metrics': [list(metric) for metric in key], 'sums': value})
    return {'groups': groups}


def _means(workers: Sequence[_Sums]) -> dict[str, float]:
    """Return the means over several sets of sums, NaN where the weights are 0."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for groups in workers:
        for group, (*values, weight) in groups.items():
            names: list[str] = []
            for key, size in group:
                names += _expanded(key, size)
            for name, value in zip(names, values):
                sums[name] = sums.get(name, 0.0) + value
                weights[name] = weights.get(name, 0.0) + weight
    return {
        name: value / weights[name] if weights[name] else math.nan for name, value in sums.items()
    }


def _expanded(name: str, size: int) -> list[str]:
    return [f'{name}_{level}' for level in range(1, size + 1)] if size else [name]
