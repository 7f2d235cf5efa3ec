"""Multi-scale mel spectrogram distance as a metric."""

import torch

from audiocodec.metrics.base import Metric
from audiocodec.metrics.mel import mean_difference, mel_spectrogram

# FFT size and number of mel bands of each scale (Kumar et al., arXiv 2306.06546, section 3.5)
SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))


class MultiScaleMelDistance(Metric):
    """Log10 mel distance summed over seven FFT sizes, from 32 to 2048.

    The scales are those of the training loss of DAC (Descript Audio Codec): amplitudes of at least
    `floor_level`, with a hop of a quarter of the FFT size.

    Args:
        floor_level: lowest amplitude.
    """

    def __init__(self, floor_level: float = 1e-5) -> None:
        if not floor_level > 0:
            raise ValueError(
                f'floor_level must be positive (silence has no logarithm), got {floor_level}'
            )
        self.floor_level = floor_level

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Return the distance, see `Metric.score`."""
        floor = self.floor_level**2  # of powers
        distance = torch.zeros((), dtype=torch.float64)
        for n_fft, n_mels in SCALES:
            options = (n_fft, n_fft // 4, None, n_mels, 0.0, None)
            melspec = mel_spectrogram(sample_rate, *options).to(reference.device)
            distance += 0.5 * mean_difference(
                melspec, estimate, reference, lambda mel: mel.clamp(min=floor).log10()
            )
        return distance
