"""Scale-invariant signal-to-noise ratio (SI-SNR) as a metric."""

import torch

from audiocodec.dsp.sisnr import EPSILON, segment_samples, si_snr
from audiocodec.metrics.base import MeanMetric, without_padding


class SISNR(MeanMetric):
    """SI-SNR in dB, averaged over overlapping segments; higher is better.

    See `audiocodec.dsp.si_snr`.

    Args:
        sample_rate: sample rate in Hz.
        segment: seconds per segment; None: each item is one segment.
        overlap: fraction by which consecutive segments overlap, in [0, 1).
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
        """Return the SI-SNR of each item, [B] in dB; NaN for one without samples.

        See `Metric.measure`.
        """
        items = without_padding(estimate, reference, lengths)
        return torch.cat([self._score(*item) for item in items])

    def _score(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        if reference.shape[-1] == 0:
            return reference.new_full((1,), torch.nan)
        return si_snr(estimate, reference, self.segment_length, self.overlap, self.epsilon)
