"""Suite of metrics, and the means of their scores over all workers."""

import math
from collections.abc import Mapping

import torch

from audiocodec.metrics.base import Metric, Score, without_padding
from audiocodec.utils.distrib import all_gather_object
from audiocodec.utils.failures import Failures

Scores = dict[str, Score]


class MetricSuite:
    """Scores items by several metrics, and averages the scores over items and workers.

    A metric that raises an error on an item has no score for it; the failure is reported once and
    never ends the run. Items without a score are not part of the mean: they are counted as
    NAME_unscored.

    Args:
        metrics: metrics by name, the same on every worker.
        failures: collects errors; None: a new object, in the attribute `failures`.
    """

    def __init__(self, metrics: Mapping[str, Metric], failures: Failures | None = None) -> None:
        self.metrics = dict(metrics)
        self.failures = Failures() if failures is None else failures
        self.reset()

    def reset(self) -> None:
        """Discard all scores."""
        self._values: dict[str, list[float]] = {}  # NaN without a score

    def update(
        self,
        estimate: torch.Tensor,
        reference: torch.Tensor,
        sample_rate: int,
        lengths: torch.Tensor | None = None,
    ) -> None:
        """Score a batch and add the scores; see `Metric.compute` and `add`."""
        for est, ref in without_padding(estimate, reference, lengths):
            self.add(score_item(self.metrics, est, ref, sample_rate))

    def add(self, scores: Scores, suffix: str = '') -> None:
        """Add the scores of an item, under the names of the metrics plus a suffix."""
        for name, score in scores.items():
            if score.is_error:
                self.failures.add(f'metric {name}', str(score.reason))
            self._values.setdefault(f'{name}{suffix}', []).append(score.value)

    def compute(self) -> dict[str, float]:
        """Return the means over all workers, and the numbers of items without a score.

        Every worker must call it. The means do not depend on the number of workers or the order of
        the scores. Metrics without any score are left out.
        """
        workers = all_gather_object(self._values)
        names = dict.fromkeys(name for worker in workers for name in worker)
        means: dict[str, float] = {}
        for name in names:
            values = [value for worker in workers for value in worker.get(name, ())]
            scores = [value for value in values if not math.isnan(value)]
            if scores:
                means[name] = math.fsum(scores) / len(scores)
            if len(scores) < len(values):
                means[f'{name}_unscored'] = float(len(values) - len(scores))
        return means

    def higher_is_better(self, key: str) -> bool:
        """Return whether higher values are better, for a key of the result of `compute`."""
        names = [name for name in self.metrics if key == name or key.startswith(f'{name}_')]
        return bool(names) and self.metrics[max(names, key=len)].higher_is_better


def score_item(
    metrics: Mapping[str, Metric],
    estimate: torch.Tensor,
    reference: torch.Tensor,
    sample_rate: int,
) -> Scores:
    """Score an item by every metric.

    Args:
        metrics: metrics by name.
        estimate: [C, T].
        reference: [C, T].
        sample_rate: Hz.

    Returns:
        A score for each metric; NaN with a reason if there is none, also after an error.
    """
    scores = {}
    for name, metric in metrics.items():
        try:
            scores[name] = metric.score_item(estimate, reference, sample_rate)
        except Exception as error:  # components may raise anything; nothing here is worth a run
            scores[name] = Score(math.nan, f'{type(error).__name__}: {error}', is_error=True)
    return scores
