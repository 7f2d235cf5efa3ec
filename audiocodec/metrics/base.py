"""What a metric is: a measurement of a batch, added up, then one computation over all workers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from audiocodec.dsp.sisnr import check_pair
from audiocodec.utils.distrib import all_gather_object


class Metric(ABC):
    """A figure of merit of reconstructions.

    `measure` has no effect on the metric, so that it may run in another process, on a pickled copy;
    `add` takes what it returned. A metric talks to no other worker: its `partial` results are
    gathered for it, and every worker combines them. So a failure on one worker leaves none of the
    others waiting.

    Attributes:
        higher_is_better: whether a better reconstruction has a higher figure.
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
            lengths: [B], the samples of each item that are audio; what follows is padding and is
                not measured. None: all are.

        Returns:
            What `add` takes.
        """

    @abstractmethod
    def add(self, measured: torch.Tensor) -> None:
        """Add what `measure` returned for a batch."""

    @abstractmethod
    def partial(self) -> Any:
        """Returns what this worker has added up, on the CPU and picklable; also when it has
        measured nothing.
        """

    @abstractmethod
    def combine(self, partials: Sequence[Any]) -> dict[str, float]:
        """Returns the figures by name, without those for which nothing could be measured.

        Args:
            partials: what `partial` returned on each worker.
        """

    def compute(self) -> dict[str, float]:
        """Returns the figures over all batches and workers; every worker must call it."""
        return self.combine(all_gather_object(self.partial()))

    @abstractmethod
    def reset(self) -> None:
        """Forget what was added."""


class MeanMetric(Metric):
    """A metric that scores each item, and is the mean of the scores.

    Attributes:
        name: name of the figure.
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
        """Add the scores [B] of a batch; NaN is left out."""
        scores = measured.detach().to('cpu', torch.float64)
        self.total += scores.nansum()
        self.count += scores.isnan().logical_not().sum()

    def partial(self) -> torch.Tensor:
        """Returns the sum of the scores and their number, float64 [2]."""
        return torch.stack([self.total, self.count])

    def combine(self, partials: Sequence[torch.Tensor]) -> dict[str, float]:
        """Returns the mean over all items of all workers, by `name`; empty if there is none."""
        total, count = torch.stack(list(partials)).sum(0).tolist()
        return {self.name: total / count} if count else {}

    def reset(self) -> None:
        """Forget all scores."""
        self.total = torch.zeros((), dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)


def without_padding(
    estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut a batch into its items, each without padding.

    Args:
        estimate: [B, C, T].
        reference: [B, C, T].
        lengths: [B] samples, from 0 to T; None: T.

    Yields:
        The estimate and the reference of each item, [1, C, length].

    Raises:
        ValueError: the shapes differ, or the lengths are not those of the batch.
    """
    check_pair(estimate, reference)
    n_items, n_samples = reference.shape[0], reference.shape[-1]
    ends = (
        [n_samples] * n_items if lengths is None else [int(length) for length in lengths.tolist()]
    )
    if len(ends) != n_items or not all(0 <= end <= n_samples for end in ends):
        raise ValueError(
            f'lengths must be {n_items} numbers from 0 to {n_samples}, one per item, got {ends}.'
        )
    for item, end in enumerate(ends):
        yield estimate[item : item + 1, :, :end], reference[item : item + 1, :, :end]
