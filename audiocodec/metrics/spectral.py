"""Distances of linear spectrograms as metrics."""

import math
from collections.abc import Iterator

import torch

from audiocodec.dsp.spectra import frame_blocks, reflect_pad
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
        total, count = 0.0, 0
        for est, ref in zip(magnitudes(estimate, self.n_fft), magnitudes(reference, self.n_fft)):
            difference = self._decibels(est) - self._decibels(ref)
            distance = difference.square().mean(-1).sqrt()
            total += distance.sum(dtype=torch.float64).item()
            count += distance.numel()
        return torch.tensor(total / count, dtype=torch.float64)

    def _decibels(self, magnitude: torch.Tensor) -> torch.Tensor:
        # a full-scale sine has the magnitude n_fft / 4 under a Hann window
        level = 20 * (magnitude / (self.n_fft / 4)).log10()
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
        terms = [self._distance(estimate, reference, n_fft) for n_fft in FFT_SIZES]
        return torch.tensor(sum(terms) / len(terms), dtype=torch.float64)

    def _distance(self, estimate: torch.Tensor, reference: torch.Tensor, n_fft: int) -> float:
        # sums over all bins: squared difference, squared magnitude, difference of logarithms
        sums, count = torch.zeros(3, dtype=torch.float64), 0
        for parts in zip(magnitudes(estimate, n_fft), magnitudes(reference, n_fft)):
            est, ref = (part.clamp(min=self.floor_level) for part in parts)
            terms = ((ref - est).square(), ref.square(), (ref.log() - est.log()).abs())
            sums += torch.stack([term.sum(dtype=torch.float64) for term in terms]).cpu()
            count += ref.numel()
        squared, energy, logs = sums.tolist()
        return float(math.sqrt(squared / energy) + logs / count)


def magnitudes(wav: torch.Tensor, n_fft: int) -> Iterator[torch.Tensor]:
    """Compute the magnitudes of a spectrogram with a hop of a quarter of the FFT size, in parts.

    Args:
        wav: [C, T], of any length; padded by reflection.
        n_fft: FFT size, and length of the Hann window, in samples.

    Yields:
        [C, frames, n_fft // 2 + 1].
    """
    padded = reflect_pad(wav.float(), n_fft // 2, n_fft // 2)
    window = torch.hann_window(n_fft, device=wav.device)
    for frames in frame_blocks(padded.unfold(-1, n_fft, n_fft // 4)):
        yield torch.fft.rfft(frames * window).abs()
