"""Mel spectrogram distance as a metric."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch

from audiocodec.dsp.spectra import MelSpectrogram
from audiocodec.metrics.base import Metric


class MelDistance(Metric):
    """Mean absolute difference of log10 mel spectrograms.

    This is the loss `mel`, computed per item and without padding.

    Args:
        n_fft: FFT size in samples.
        hop_length: samples between frames.
        n_mels: number of mel bands.
        f_min: lowest frequency in Hz.
        f_max: highest frequency in Hz; None: half the sample rate.
        floor_level: power added before the logarithm.
    """

    def __init__(
        self,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 64,
        f_min: float = 64.0,
        f_max: float | None = None,
        floor_level: float = 1e-5,
    ) -> None:
        if not floor_level > 0:
            raise ValueError(
                f'floor_level must be positive (silence has no logarithm), got {floor_level}'
            )
        self.options = (n_fft, hop_length, None, n_mels, f_min, f_max)
        self.floor_level = floor_level
        highest = max(f_min, f_max or 0.0)
        self.prepare(max(48000, 2 * math.ceil(highest)))  # checks all but f_max

    def prepare(self, sample_rate: int) -> None:
        """See `Metric.prepare`."""
        mel_spectrogram(sample_rate, *self.options)

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Return the distance, see `Metric.score`."""
        melspec = mel_spectrogram(sample_rate, *self.options).to(reference.device)
        return mean_difference(
            melspec, estimate, reference, lambda mel: (self.floor_level + mel).log10()
        )


def mean_difference(
    melspec: MelSpectrogram,
    estimate: torch.Tensor,
    reference: torch.Tensor,
    scale: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the mean absolute difference of two mel spectrograms, computed part by part.

    Args:
        melspec: the transform.
        estimate: [C, T].
        reference: [C, T].
        scale: applied to each spectrogram, e.g. a logarithm.

    Returns:
        0-d, float64.
    """
    total, count = 0.0, 0
    for est, ref in zip(melspec.blocks(estimate), melspec.blocks(reference)):
        difference = scale(est) - scale(ref)
        total += difference.abs().sum(dtype=torch.float64).item()
        count += difference.numel()
    return torch.tensor(total / count, dtype=torch.float64)


@lru_cache(64)
def mel_spectrogram(sample_rate: int, *options: float | None) -> MelSpectrogram:
    """Return a cached transform; see `MelSpectrogram` for the arguments."""
    return MelSpectrogram(sample_rate, *options)  # type: ignore[arg-type]
