"""Scale-invariant signal-to-noise ratio (SI-SNR) as a metric."""

import torch

from audiocodec.dsp.sisnr import EPSILON, segment_samples, si_snr
from audiocodec.metrics.base import Metric


class SISNR(Metric):
    """SI-SNR in dB, averaged over overlapping segments.

    See `audiocodec.dsp.si_snr`. An item shorter than a segment is one segment of its own length.

    Args:
        segment: seconds per segment; None: each item is one segment.
        overlap: fraction by which consecutive segments overlap, in [0, 1).
        epsilon: energy per sample added to every energy.

    Raises:
        ValueError: a segment without samples, or an overlap that leaves no stride.
    """

    higher_is_better = True
    unit = 'dB'

    def __init__(
        self, segment: float | None = 5.0, overlap: float = 0.5, epsilon: float = EPSILON
    ) -> None:
        if segment is not None:
            segment_samples(segment, 48000, overlap)  # checks them
        self.segment = segment
        self.overlap = overlap
        self.epsilon = epsilon

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Return the SI-SNR in dB, see `Metric.score`."""
        length = None
        if self.segment is not None:
            longest = segment_samples(self.segment, sample_rate, self.overlap)
            length = longest if longest < reference.shape[-1] else None
        return si_snr(estimate[None], reference[None], length, self.overlap, self.epsilon)[0]
