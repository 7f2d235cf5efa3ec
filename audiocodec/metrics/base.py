"""Base class of metrics, which score each item of a batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch

from audiocodec.dsp.sisnr import check_pair


class UnscorableError(ValueError):
    """An item has no score, for the reason in the message, e.g. silence; raised by `score`."""


class Score(NamedTuple):
    """Score of an item.

    Attributes:
        value: the score, NaN if there is none.
        reason: why there is none.
        is_error: True if the metric failed, rather than that the item has no score.
    """

    value: float
    reason: str | None = None
    is_error: bool = False


class Metric(ABC):
    """Metric of the quality of reconstructions: one score per item.

    A subclass implements `score`. Metrics have no state that changes, and can be pickled: they run
    in several processes at once.

    Attributes:
        higher_is_better: whether better reconstructions have higher scores.
        unit: unit of the score, for tables and plots.
    """

    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = ''

    @abstractmethod
    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> float | torch.Tensor:
        """Score a reconstruction.

        Args:
            estimate: [C, T], T > 0.
            reference: [C, T].
            sample_rate: Hz.

        Returns:
            A number, or 0-d.

        Raises:
            UnscorableError: there is no score for this item.
        """

    def prepare(self, sample_rate: int) -> None:  # noqa: B027
        """Check that signals of a sample rate (Hz) can be scored, before any data is read.

        Raises:
            ValueError: they cannot.
        """

    @property
    def description(self) -> str:
        """What the score is, in one line, for the captions of tables."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0].rstrip('.')

    @torch.no_grad()
    def compute(
        self,
        estimate: torch.Tensor,
        reference: torch.Tensor,
        sample_rate: int,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Score each item of a batch.

        Args:
            estimate: [B, C, T].
            reference: [B, C, T].
            sample_rate: Hz.
            lengths: [B], samples of each item without padding, which is not scored; None: T.

        Returns:
            [B], float64, on the CPU; NaN for items that have no score.

        Raises:
            ValueError: shapes that differ, or lengths that do not fit the batch.
        """
        scores = [
            self.score_item(est, ref, sample_rate).value
            for est, ref in without_padding(estimate, reference, lengths)
        ]
        return torch.tensor(scores, dtype=torch.float64)

    @torch.no_grad()
    def score_item(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> Score:
        """Score an item [C, T], or tell why it has no score."""
        if reference.shape[-1] == 0:
            return Score(math.nan, 'it has no samples')
        try:
            value = float(self.score(estimate, reference, sample_rate))
        except UnscorableError as error:
            return Score(math.nan, str(error))
        return Score(value, 'the score is not a number' if math.isnan(value) else None)


def without_padding(
    estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Split a batch into its items and remove their padding.

    Args:
        estimate: [B, C, T].
        reference: [B, C, T].
        lengths: [B], samples without padding, from 0 to T; None: T.

    Yields:
        The estimate and the reference of each item, [C, length].

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
    for est, ref, end in zip(estimate, reference, ends):
        yield est[:, :end], ref[:, :end]
