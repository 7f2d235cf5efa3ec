"""Scale-invariant signal-to-noise ratio (SI-SNR) as a loss."""

import torch
from torch import nn

from audiocodec.dsp.sisnr import EPSILON, segment_samples, si_snr


class SISNR(nn.Module):
    """Negated SI-SNR in dB: lower is better (see `audiocodec.dsp.si_snr`).

    Args:
        sample_rate: sample rate in Hz.
        segment: seconds per segment; None: each signal is one segment.
        overlap: fraction by which consecutive segments overlap, in [0, 1).
        epsilon: energy per sample added to every energy.

    Raises:
        ValueError: a segment without samples, or an overlap that leaves no stride.
    """

    higher_is_better = True  # refers to the reported value

    def __init__(
        self,
        sample_rate: int = 16000,
        segment: float | None = 20,
        overlap: float = 0.5,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.segment_length = (
            None if segment is None else segment_samples(segment, sample_rate, overlap)
        )
        self.overlap = overlap
        self.epsilon = epsilon

    def forward(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            estimate: [B, C, T].
            reference: [B, C, T].

        Returns:
            Scalar, the negated SI-SNR in dB, averaged over the batch.
        """
        return -si_snr(estimate, reference, self.segment_length, self.overlap, self.epsilon).mean()

    @staticmethod
    def reported(loss: torch.Tensor) -> torch.Tensor:
        """Convert a value of the loss to the value in logs: SI-SNR in dB, higher is better."""
        return -loss
