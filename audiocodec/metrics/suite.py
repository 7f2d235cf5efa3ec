"""Several metrics run together."""

import pickle
from collections.abc import Mapping
from typing import Any

import torch

from audiocodec.metrics.base import Metric
from audiocodec.utils.distrib import all_gather_object
from audiocodec.utils.failures import Failures


class MetricSuite:
    """Runs several metrics. One that fails on a batch misses that batch, is reported once, and
    never ends the run.

    Args:
        metrics: the metrics by the name their figure is reported under (a metric with several
            figures reports each as NAME_FIGURE). The same on every worker.
        failures: where failures are reported; None: only here, as `failures`.
    """

    def __init__(self, metrics: Mapping[str, Metric], failures: Failures | None = None) -> None:
        self.metrics = dict(metrics)
        self.failures = Failures() if failures is None else failures

    def update(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> None:
        """Measure a batch with every metric and add the results (see `Metric.measure`)."""
        self.add(self.measure(estimate, reference, lengths))

    def measure(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Measure a batch with every metric; may run in another process (see `Metric.measure`).

        Returns:
            What `add` takes: the measurement of each metric that did not fail.
        """
        measured = {}
        for name, metric in self.metrics.items():
            with self.failures.caught(f'metric {name}'):
                measured[name] = metric.measure(estimate, reference, lengths)
        return measured

    def add(self, measured: Mapping[str, torch.Tensor]) -> None:
        """Add what `measure` returned for a batch."""
        for name, measurement in measured.items():
            with self.failures.caught(f'metric {name}'):
                self.metrics[name].add(measurement)

    def compute(self) -> dict[str, float]:
        """Returns the figures over all workers, all of which call it, without those that one of
        them failed to give.

        There is one collective, in which every worker takes part whatever fails.
        """
        partials: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            with self.failures.caught(f'metric {name}'):
                partial = metric.partial()
                pickle.dumps(partial)  # what cannot be sent fails here, not in the collective
                partials[name] = partial
        workers = all_gather_object(partials)
        figures = {}
        for name, metric in self.metrics.items():
            if not all(name in worker for worker in workers):
                continue
            with self.failures.caught(f'metric {name}'):
                computed = metric.combine([worker[name] for worker in workers])
                for figure, value in computed.items():
                    figures[name if len(computed) == 1 else f'{name}_{figure}'] = value
        return figures

    def reset(self) -> None:
        """Forget all measurements."""
        for name, metric in self.metrics.items():
            with self.failures.caught(f'metric {name}'):
                metric.reset()

    def higher_is_better(self, figure: str) -> bool:
        """Whether a figure that `compute` returns is better the higher it is."""
        names = [name for name in self.metrics if figure == name or figure.startswith(f'{name}_')]
        return bool(names) and self.metrics[max(names, key=len)].higher_is_better
