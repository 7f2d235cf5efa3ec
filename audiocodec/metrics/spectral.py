"""Distances of linear spectrograms as metrics."""

import torch

from audiocodec.dsp.spectra import reflect_pad
from audiocodec.metrics.base import Metric

FFT_SIZES = (512, 1024, 2048)


class LogSpectralDistance(Metric):
    """Root mean square difference of the log spectra in dB, averaged over frames.

    With power spectra P, it is the mean over frames of sqrt(mean over bins of
    (10 log10 P_est - 10 log10 P_ref)^2) (Gray and Markel, 1976).

    Args:
        n_fft: FFT size in samples; the hop is a quarter of it.
        floor_db: level below which differences are not counted, relative to a full-scale sine.
    """

    unit = 'dB'

    def __init__(self, n_fft: int = 2048, floor_db: float = -100.0) -> None:
        self.n_fft = n_fft
        self.floor_db = floor_db

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Return the distance in dB, see `Metric.score`."""
        difference = self._decibels(estimate) - self._decibels(reference)
        return difference.square().mean(1).sqrt().mean()

    def _decibels(self, wav: torch.Tensor) -> torch.Tensor:
        # a full-scale sine has the magnitude n_fft / 4 under a Hann window
        level = 20 * (magnitudes(wav, self.n_fft) / (self.n_fft / 4)).log10()
        return level.clamp(min=self.floor_db)


class STFTDistance(Metric):
    """Spectral convergence plus log-magnitude distance, averaged over three FFT sizes.

    The auxiliary loss of Parallel WaveGAN (Yamamoto et al., arXiv 1910.11480, section 2.3), with
    natural logarithms; lower is better.

    Args:
        floor_level: lowest magnitude.
    """

    def __init__(self, floor_level: float = 1e-4) -> None:
        self.floor_level = floor_level

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Return the distance, see `Metric.score`."""
        terms = []
        for n_fft in FFT_SIZES:
            est = magnitudes(estimate, n_fft).clamp(min=self.floor_level)
            ref = magnitudes(reference, n_fft).clamp(min=self.floor_level)
            convergence = torch.linalg.norm(ref - est) / torch.linalg.norm(ref)
            terms.append(convergence + (ref.log() - est.log()).abs().mean())
        return torch.stack(terms).mean()


def magnitudes(wav: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Return the magnitudes of a spectrogram with a hop of a quarter of the FFT size.

    Args:
        wav: [C, T], of any length; padded by reflection.
        n_fft: FFT size, and length of the Hann window, in samples.

    Returns:
        [C, n_fft // 2 + 1, frames].
    """
    padded = reflect_pad(wav.float(), n_fft // 2, n_fft // 2)
    window = torch.hann_window(n_fft, device=wav.device)
    spectrum = torch.stft(
        padded, n_fft, n_fft // 4, window=window, center=False, return_complex=True
    )
    return spectrum.abs()
