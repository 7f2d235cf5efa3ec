"""Summary of the rows of an evaluation: means with confidence intervals, differences."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from audiocodec.evaluation.rows import Row, label

RESAMPLES = 2000
_CONFIDENCE = 95  # percent
_BLOCK = 2**22  # most values that are resampled at once


def summarize(
    rows: Iterable[Row], metrics: Sequence[str], baseline: tuple[str, float] | None = None
) -> list[Row]:
    """Summarize each system at each rate.

    Args:
        rows: one per item, system and rate.
        metrics: columns to summarize.
        baseline: system and rate that the others are compared with, item by item.

    Returns:
        For each system and rate: `system`, `rate`, `items`, the mean `kbps`, real-time factors
        `encode_speed` and `decode_speed`; and for each metric NAME its mean, NAME_median, NAME_low
        and NAME_high (the 95 % bootstrap interval of the mean over items), NAME_unscored (number of
        items without a score), and with a baseline NAME_difference, _difference_low and
        _difference_high, of the items that both have.

    Raises:
        ValueError: the baseline is not among the systems.
    """
    groups: dict[tuple[str, float], dict[Any, Row]] = {}
    for row in rows:
        groups.setdefault((row['system'], row['rate']), {})[row['item']] = row
    reference = None
    if baseline is not None:
        if baseline not in groups:
            names = ', '.join(label(*group) for group in groups)
            raise ValueError(f'baseline {label(*baseline)}: expected one of {names}')
        reference = groups[baseline]
    return [_summary(key, group, metrics, reference) for key, group in groups.items()]


def _summary(
    key: tuple[str, float],
    group: dict[Any, Row],
    metrics: Sequence[str],
    reference: dict[Any, Row] | None,
) -> Row:
    rows = list(group.values())
    seconds = math.fsum(row['seconds'] for row in rows)
    summary: Row = {
        'system': key[0],
        'rate': key[1],
        'items': len(rows),
        'kbps': math.fsum(row['kbps'] * row['seconds'] for row in rows) / seconds,
    }
    for name in ('encode', 'decode'):
        spent = math.fsum(row[f'{name}_seconds'] for row in rows)
        summary[f'{name}_speed'] = seconds / spent if spent else None
    for metric in metrics:
        values = _values(rows, metric)
        if not len(values) and not any(metric in row for row in rows):
            continue  # not a metric of this system
        summary[metric] = float(values.mean()) if len(values) else None
        summary[f'{metric}_median'] = float(np.median(values)) if len(values) else None
        summary[f'{metric}_low'], summary[f'{metric}_high'] = interval(values)
        summary[f'{metric}_unscored'] = len(rows) - len(values)
        if reference is not None:
            pairs = [(row, reference[item]) for item, row in group.items() if item in reference]
            both = [(a[metric], b[metric]) for a, b in pairs if _has(a, metric) and _has(b, metric)]
            differences = np.array([first - second for first, second in both])
            name = f'{metric}_difference'
            summary[name] = float(differences.mean()) if len(both) else None
            summary[f'{name}_low'], summary[f'{name}_high'] = interval(differences)
    return summary


def _has(row: Row, metric: str) -> bool:
    return row.get(metric) is not None


def _values(rows: Iterable[Row], metric: str) -> np.ndarray:
    return np.array([row[metric] for row in rows if _has(row, metric)], dtype=np.float64)


def interval(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[float | None, float | None]:
    """Return the 95 % percentile bootstrap interval of the mean (Efron, 1979).

    The draws depend only on the number of values, so that the same rows give the same interval.

    Args:
        values: [N].
        resamples: number of resamples.

    Returns:
        Low and high end; None without values.
    """
    if not len(values):
        return None, None
    rng = np.random.default_rng(len(values))
    block = max(1, _BLOCK // len(values))
    means: list[np.ndarray] = []
    for start in range(0, resamples, block):
        size = (min(block, resamples - start), len(values))
        means.append(values[rng.integers(len(values), size=size)].mean(1))
    tail = (100 - _CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)
