"""Copies of an experiment's latest checkpoint that stay: one every few epochs, and that of the best
epoch.
"""

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
    """Keeps the checkpoint of an epoch that is due as `checkpoint_N.th`, and deletes the oldest
    ones.

    Args:
        latest: the latest checkpoint, of the end of `epoch`.
        epoch: counted from 1.
        every: epochs between two kept ones; None or 0: none is kept.
        keep_last: how many stay; None: all.
    """
    if every and epoch % every == 0:
        checkpoint.duplicate(latest, latest.with_name(f'checkpoint_{epoch}.th'))
        checkpoint.prune(latest.parent, 'checkpoint_*.th', keep_last)


def keep_best(latest: Path, history: History, key: str, higher_is_better: bool) -> None:
    """Keeps the latest checkpoint as `checkpoint_best.th` if its epoch is better than that of the
    one there.

    An epoch without a finite value is passed over. A file there of an epoch without one is
    replaced.

    Args:
        latest: the latest checkpoint, of the end of the last epoch in `history`.
        history: the metrics of every epoch.
        key: STAGE.METRIC.
        higher_is_better: of the metric.

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
    epoch, best = len(history), latest.with_name(BEST)
    if epoch not in costs or costs[epoch] >= costs.get(_epoch_of(best), math.inf):
        return
    checkpoint.duplicate(latest, best)
    logger.info(
        'best %s so far: %.4g, of epoch %d, kept as %s', key, found[metric], epoch, best.name
    )


def _epoch_of(path: Path) -> Any:
    """The epoch of a training checkpoint, without reading its tensors; None if there is none that
    can be read.
    """
    try:
        return checkpoint.load(path, mmap=True)['epoch']
    except (ValueError, KeyError):  # whatever is wrong with a copy, the next best one replaces it
        return None
