"""Suite of metrics."""

import pickle
from collections.abc import Mapping
from typing import Any

import torch

from audiocodec.metrics.base import Metric
from audiocodec.utils.distrib import all_gather_object
from audiocodec.utils.failures import Failures


class MetricSuite:
    """Runs several metrics.

    A metric that fails on a batch skips that batch. Its failure is reported once and never ends the
    run.

    Args:
        metrics: metrics by name, the same on every worker. A metric with a single value is reported
            under its name here, one with several values as NAME_VALUE.
        failures: collects the failures; None: a new object, in the attribute `failures`.
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
            The argument of `add`: the measurement of each metric that did not fail.
        """
        measured = {}
        for name, metric in self.metrics.items():
            with self.failures.caught(f'metric {name}'):
                measured[name] = metric.measure(estimate, reference, lengths)
        return measured

    def add(self, measured: Mapping[str, torch.Tensor]) -> None:
        """Add the result of `measure` for a batch."""
        for name, measurement in measured.items():
            with self.failures.caught(f'metric {name}'):
                self.metrics[name].add(measurement)

    def compute(self) -> dict[str, float]:
        """Return the values over all workers; every worker must call it.

        A metric is left out if its partial result is missing on any worker. There is a single
        collective, in which every worker takes part even if its metrics fail.
        """
        partials: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            with self.failures.caught(f'metric {name}'):
                partial = metric.partial()
                pickle.dumps(
                    partial
                )  # results that cannot be sent fail here, not in the collective
                partials[name] = partial
        workers = all_gather_object(partials)
        values = {}
        for name, metric in self.metrics.items():
            if not all(name in worker for worker in workers):
                continue
            with self.failures.caught(f'metric {name}'):
                computed = metric.combine([worker[name] for worker in workers])
                for key, value in computed.items():
                    values[name if len(computed) == 1 else f'{name}_{key}'] = value
        return values

    def reset(self) -> None:
        """Discard all measurements."""
        for name, metric in self.metrics.items():
            with self.failures.caught(f'metric {name}'):
                metric.reset()

    def higher_is_better(self, key: str) -> bool:
        """Return whether higher values are better, for a key of the result of `compute`."""
        names = [name for name in self.metrics if key == name or key.startswith(f'{name}_')]
        return bool(names) and self.metrics[max(names, key=len)].higher_is_better
