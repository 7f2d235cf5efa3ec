"""Mel spectrogram distance as a metric."""

import torch

from audiocodec.dsp.spectra import MelSpectrogram
from audiocodec.metrics.base import MeanMetric, without_padding


class MelDistance(MeanMetric):
    """Mean absolute difference of log10 mel spectrograms; lower is better.

    This is the loss `mel`, computed per item and without padding.

    Args:
        sample_rate: sample rate in Hz.
        n_fft: FFT size in samples.
        hop_length: samples between frames.
        n_mels: number of mel bands.
        f_min: lowest frequency in Hz.
        f_max: highest frequency in Hz; None: half the sample rate.
        floor_level: power added before the logarithm.
    """

    name = 'mel'

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 64,
        f_min: float = 64.0,
        f_max: float | None = None,
        floor_level: float = 1e-5,
    ) -> None:
        super().__init__()
        if not floor_level > 0:
            raise ValueError(
                f'floor_level must be positive (silence has no logarithm), got {floor_level}'
            )
        self.melspec = MelSpectrogram(sample_rate, n_fft, hop_length, None, n_mels, f_min, f_max)
        self.floor_level = floor_level

    @torch.no_grad()
    def measure(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the distance of each item, [B]; NaN for one without samples.

        See `Metric.measure`.
        """
        self.melspec.to(reference.device)
        items = without_padding(estimate, reference, lengths)
        return torch.stack([self._score(*item) for item in items])

    def _score(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        if reference.shape[-1] == 0:
            return reference.new_full((), torch.nan)
        log_est = torch.log10(self.floor_level + self.melspec(estimate))
        log_ref = torch.log10(self.floor_level + self.melspec(reference))
        return (log_est - log_ref).abs().mean()
