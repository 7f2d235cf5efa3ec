"""Copies of the latest checkpoint that are kept: every few epochs, and of the best epoch."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiocodec.run import checkpoint

logger = logging.getLogger('audiocodec')

BEST = 'checkpoint_best.th'
History = Sequence[Mapping[str, Mapping[str, float]]]  # for each epoch, stage -> metric -> value


def keep_epoch(latest: Path, epoch: int, every: int | None, keep_last: int | None) -> None:
    """Keep the checkpoint of an epoch as `checkpoint_N.th` if it is due, and delete the oldest.

    Args:
        latest: the latest checkpoint, of the end of `epoch`.
        epoch: counted from 1.
        every: epochs between two kept checkpoints; None or 0: none is kept.
        keep_last: number of checkpoints to keep; None: all.
    """
    if every and epoch % every == 0:
        checkpoint.duplicate(latest, latest.with_name(f'checkpoint_{epoch}.th'))
        checkpoint.prune(latest.parent, 'checkpoint_*.th', keep_last)


def keep_best(latest: Path, history: History, key: str, higher_is_better: bool) -> None:
    """Keep the latest checkpoint as `checkpoint_best.th` if its epoch is better than the best.

    Epochs without a finite value are never the best; an existing file of such an epoch is replaced.

    Args:
        latest: the latest checkpoint, of the end of the last epoch in `history`.
        history: the metrics of every epoch.
        key: STAGE.METRIC.
        higher_is_better: True if higher values of the metric are better.

    Raises:
        ValueError: the stage ran in the last epoch, and has no such metric.
    """
    stage, _, metric = key.partition('.')
    found = history[-1].get(stage, {})
    if found and metric not in found:
        raise ValueError(f'{stage} has no metric {metric}; it has {", ".join(found)}')
    sign = -1.0 if higher_is_better else 1.0
    costs = {
        epoch: sign * stages[stage][metric]
        for epoch, stages in enumerate(history, start=1)
        if math.isfinite(stages.get(stage, {}).get(metric, math.nan))
    }
    epoch = len(history)
    best = latest.with_name(BEST)
    if epoch not in costs or costs[epoch] >= costs.get(_epoch_of(best), math.inf):
        return
    checkpoint.duplicate(latest, best)
    logger.info(
        'best %s so far: %.4g, of epoch %d, kept as %s', key, found[metric], epoch, best.name
    )


def _epoch_of(path: Path) -> Any:
    """Return the epoch of a checkpoint, without reading its tensors; None if it is unreadable."""
    try:
        return checkpoint.load(path, mmap=True)['epoch']
    except (ValueError, KeyError):  # a missing or damaged copy is replaced
        return None
