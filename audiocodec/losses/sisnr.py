"""Scale-invariant signal-to-noise ratio as a loss."""

import torch
from torch import nn

from audiocodec.dsp.sisnr import EPSILON, segment_samples, si_snr


class SISNR(nn.Module):
    """The negated SI-SNR in dB: lower is better (see `audiocodec.dsp.si_snr`).

    Args:
        sample_rate: Hz.
        segment: seconds of a segment; None: each signal is one segment.
        overlap: fraction of a segment shared with the next, in [0, 1).
        epsilon: energy per sample added to every energy.

    Raises:
        ValueError: a segment without samples, or an overlap that leaves no stride.
    """

    higher_is_better = True  # of what is reported

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
            Scalar, -dB, the mean over the batch.
        """
        return -si_snr(estimate, reference, self.segment_length, self.overlap, self.epsilon).mean()

    @staticmethod
    def reported(loss: torch.Tensor) -> torch.Tensor:
        """What is logged for a value of the loss: SI-SNR in dB, higher is better."""
        return -loss
