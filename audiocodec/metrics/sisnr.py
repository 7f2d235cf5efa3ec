"""Scale-invariant signal-to-noise ratio as a metric."""

import torch

from audiocodec.dsp.sisnr import EPSILON, segment_samples, si_snr
from audiocodec.metrics.base import MeanMetric, without_padding


class SISNR(MeanMetric):
    """SI-SNR in dB, higher is better: the mean over half-overlapping segments (see
    `audiocodec.dsp.si_snr`).

    Args:
        sample_rate: Hz.
        segment: seconds of a segment; None: each item is one segment.
        overlap: fraction of a segment shared with the next, in [0, 1).
        epsilon: energy per sample added to every energy.

    Raises:
        ValueError: a segment without samples, or an overlap that leaves no stride.
    """

    name = 'sisnr'
    higher_is_better = True

    def __init__(
        self,
        sample_rate: int,
        segment: float | None = 5.0,
        overlap: float = 0.5,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.segment_length = (
            None if segment is None else segment_samples(segment, sample_rate, overlap)
        )
        self.overlap = overlap
        self.epsilon = epsilon

    @torch.no_grad()
    def measure(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """SI-SNR of each item, [B] dB; NaN for an item without samples (see `Metric.measure`)."""
        items = without_padding(estimate, reference, lengths)
        return torch.cat([self._score(*item) for item in items])

    def _score(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        if reference.shape[-1] == 0:
            return reference.new_full((1,), torch.nan)
        return si_snr(estimate, reference, self.segment_length, self.overlap, self.epsilon)
