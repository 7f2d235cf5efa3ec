"""Several metrics run together."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from .base import Metric, warn_once

logger = logging.getLogger(__name__)


class MetricSuite:
    """Runs several metrics. One that fails misses that batch, is reported once, and never ends the run.

    Args:
        metrics: the metrics by the name their figure is reported under (a metric with several figures reports each as
            NAME_FIGURE). The same on every worker.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = dict(metrics)

    def update(self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None) -> None:
        """Measure a batch with every metric and add the results (see `Metric.measure`)."""
        self.add(self.measure(estimate, reference, lengths))

    def measure(self, estimate: torch.Tensor, reference: torch.Tensor,
                lengths: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Measure a batch with every metric; may run in another process (see `Metric.measure`).

        Returns:
            What `add` takes: the measurement of each metric that did not fail.
        """
        measured = {}
        for name, metric in self.metrics.items():
            with _reported(name):
                measured[name] = metric.measure(estimate, reference, lengths)
        return measured

    def add(self, measured: Mapping[str, torch.Tensor]) -> None:
        """Add what `measure` returned for a batch."""
        for name, measurement in measured.items():
            with _reported(name):
                self.metrics[name].add(measurement)

    def compute(self) -> dict[str, float]:
        """The figures of all metrics over all workers. Every worker calls it, and every metric takes part."""
        figures = {}
        for name, metric in self.metrics.items():
            with _reported(name):
                computed = metric.compute()
                for figure, value in computed.items():
                    figures[name if len(computed) == 1 else f'{name}_{figure}'] = value
        return figures

    def reset(self) -> None:
        """Forget all measurements."""
        for metric in self.metrics.values():
            metric.reset()


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turn any failure of a metric, whoever wrote it, into one warning: hours of training hang on it."""
    try:
        yield
    except Exception as error:
        warn_once(logger, f'suite.{name}', f'The metric {name} failed, its figure is missing or partial: {error!r}')
