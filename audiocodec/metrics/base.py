"""Base classes of metrics, which are measured per batch and combined over all workers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from audiocodec.dsp.sisnr import check_pair
from audiocodec.utils.distrib import all_gather_object


class Metric(ABC):
    """Metric of the quality of reconstructions.

    `measure` does not change the metric, so that it may run in another process on a pickled copy;
    `add` accumulates its result. A metric does not communicate with other workers: the caller
    gathers the `partial` results, and every worker combines them. Other workers therefore never
    wait for one that fails.

    Attributes:
        higher_is_better: whether better reconstructions have higher values.
    """

    higher_is_better: ClassVar[bool] = False

    def update(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> None:
        """Measure a batch and add the result (see `measure`)."""
        self.add(self.measure(estimate, reference, lengths))

    @abstractmethod
    def measure(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Measure a batch.

        Args:
            estimate: [B, C, T].
            reference: [B, C, T].
            lengths: [B], number of samples of each item without padding; padding is not measured.
                None: no padding.

        Returns:
            The argument of `add`.
        """

    @abstractmethod
    def add(self, measured: torch.Tensor) -> None:
        """Add the result of `measure` for a batch."""

    @abstractmethod
    def partial(self) -> Any:
        """Return the sums of this worker, on the CPU and picklable, also without measurements."""

    @abstractmethod
    def combine(self, partials: Sequence[Any]) -> dict[str, float]:
        """Return the values by name, without those for which nothing could be measured.

        Args:
            partials: result of `partial` on each worker.
        """

    def compute(self) -> dict[str, float]:
        """Return the values over all batches and workers; every worker must call it."""
        return self.combine(all_gather_object(self.partial()))

    @abstractmethod
    def reset(self) -> None:
        """Discard all measurements."""


class MeanMetric(Metric):
    """Metric that is the mean of a score per item.

    Attributes:
        name: name of the value.
    """

    name: str

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def measure(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Score each item: [B], NaN for one that cannot be scored (see `Metric.measure`)."""

    def add(self, measured: torch.Tensor) -> None:
        """Add the scores [B] of a batch, except NaNs."""
        # Sums over large data sets would lose precision in float32.
        scores = measured.detach().to('cpu', torch.float64)
        self.total += scores.nansum()
        self.count += scores.isnan().logical_not().sum()

    def partial(self) -> torch.Tensor:
        """Return the sum and the number of the scores, float64 [2]."""
        return torch.stack([self.total, self.count])

    def combine(self, partials: Sequence[torch.Tensor]) -> dict[str, float]:
        """Return the mean over all items of all workers, by `name`; empty without items."""
        total, count = torch.stack(list(partials)).sum(0).tolist()
        return {self.name: total / count} if count else {}

    def reset(self) -> None:
        """Discard all scores."""
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)


def without_padding(
    estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Split a batch into its items and remove their padding.

    Args:
        estimate: [B, C, T].
        reference: [B, C, T].
        lengths: [B], samples without padding, from 0 to T; None: T.

    Yields:
        The estimate and the reference of each item, [1, C, length].

    Raises:
        ValueError: shapes that differ, or lengths that do not fit the batch.
    """
    check_pair(estimate, reference)
    n_items, n_samples = reference.shape[0], reference.shape[-1]
    if lengths is None:
        ends = [n_samples] * n_items
    else:
        ends = [int(length) for length in lengths.tolist()]
    if len(ends) != n_items or not all(0 <= end <= n_samples for end in ends):
        raise ValueError(
            f'lengths must be {n_items} numbers from 0 to {n_samples}, one per item, got {ends}'
        )
    for item, end in enumerate(ends):
        yield estimate[item : item + 1, :, :end], reference[item : item + 1, :, :end]
