"""Spectral losses, computed in float32 also under autocast.

The spectrogram of the estimate is computed once per FFT size for all terms. That of the reference
is not computed in the same batch: on its own it has no graph and takes no backward pass.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.dsp.sisnr import EPSILON, check_pair
from audiocodec.dsp.spectra import MelSpectrogram, fft_window, power_spectrum, reflect_pad


class MelSpectrogramL1Loss(nn.Module):
    """L1 distance between (log10) mel spectrograms.

    Args:
        sample_rate: sample rate in Hz.
        n_fft: FFT size in samples.
        hop_length: samples between frames.
        win_length: length of the Hann window in samples.
        n_mels: number of mel bands.
        f_min: lowest frequency in Hz.
        f_max: highest frequency in Hz; None: half the sample rate.
        log: whether to compare log10(floor_level + mel) instead of mel.
        normalized: whether to divide the power by the energy of the window.
        floor_level: power added before the logarithm.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int | None = 1024,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        log: bool = True,
        normalized: bool = False,
        floor_level: float = 1e-5,
    ) -> None:
        super().__init__()
        check_floor(floor_level)
        self.melspec = MelSpectrogram(
            sample_rate, n_fft, hop_length, win_length, n_mels, f_min, f_max, normalized
        )
        self.log = log
        self.floor_level = floor_level

    def forward(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            estimate: [B, C, T].
            reference: [B, C, T].

        Returns:
            Scalar.
        """
        check_pair(estimate, reference)
        mel_est = self.melspec(estimate)
        mel_ref = self.melspec(reference)
        if self.log:
            mel_est = torch.log10(self.floor_level + mel_est)
            mel_ref = torch.log10(self.floor_level + mel_ref)
        return F.l1_loss(mel_est, mel_ref)


class MultiScaleMelSpectrogramLoss(nn.Module):
    """L1 distance of mel spectrograms plus L2 distance of their log10, summed over FFT sizes.

    See EnCodec, section 3.4. With S_i the mel spectrogram for an FFT of 2^i samples and a hop of a
    quarter of it, the loss is

        sum_i (|S_i(est) - S_i(ref)|_1 + alpha_i |log S_i(est) - log S_i(ref)|_2^2)
        / sum_i (1 + alpha_i)

    where both norms are means. The denominator applies only if `normalized`.

    Args:
        sample_rate: sample rate in Hz.
        range_start: log2 of the first FFT size.
        range_end: log2 of the last FFT size, plus 1.
        n_mels: number of mel bands at every scale; with the smallest FFTs, some are empty.
        f_min: lowest frequency in Hz.
        f_max: highest frequency in Hz; None: half the sample rate.
        normalized: whether to divide the power by the energy of the window, and the sum by the sum
            of its weights.
        alphas: whether alpha_i is sqrt(2^i - 1) instead of 1.
        floor_level: power added before the logarithm.
    """

    def __init__(
        self,
        sample_rate: int,
        range_start: int = 6,
        range_end: int = 11,
        n_mels: int = 64,
        f_min: float = 0.0,
        f_max: float | None = None,
        normalized: bool = False,
        alphas: bool = True,
        floor_level: float = 1e-5,
    ) -> None:
        super().__init__()
        check_floor(floor_level)
        if not 2 <= range_start < range_end:
            raise ValueError(
                f'FFT sizes 2^range_start .. 2^(range_end - 1) need 2 <= range_start < range_end, '
                f'got range_start={range_start} and range_end={range_end}'
            )
        sizes = [2**i for i in range(range_start, range_end)]
        self.melspecs = nn.ModuleList(
            MelSpectrogram(sample_rate, n_fft, n_fft // 4, None, n_mels, f_min, f_max, normalized)
            for n_fft in sizes
        )
        self.alphas = [math.sqrt(n_fft - 1) if alphas else 1.0 for n_fft in sizes]
        self.total = sum(self.alphas) + len(sizes) if normalized else 1.0
        self.floor_level = floor_level

    def forward(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            estimate: [B, C, T].
            reference: [B, C, T].

        Returns:
            Scalar.
        """
        check_pair(estimate, reference)
        loss = torch.zeros((), device=estimate.device)
        for melspec, alpha in zip(self.melspecs, self.alphas):
            mel_est = melspec(estimate)
            mel_ref = melspec(reference)
            log_est = torch.log10(self.floor_level + mel_est)
            log_ref = torch.log10(self.floor_level + mel_ref)
            loss = loss + F.l1_loss(mel_est, mel_ref) + alpha * F.mse_loss(log_est, log_ref)
        return loss / self.total


class MRSTFTLoss(nn.Module):
    """Multi-resolution STFT loss: spectral convergence and log magnitude.

    See Parallel WaveGAN, arXiv 1910.11480, eq. 6. Each term is averaged over the resolutions.
    Frames are centered, with reflected padding at the ends of the signal. The log magnitudes are
    compared by L1. The spectral convergence is a single ratio of Frobenius norms over the whole
    batch.

    Args:
        n_ffts: FFT sizes in samples.
        hop_lengths: samples between frames, one per FFT.
        win_lengths: window lengths in samples, one per FFT.
        window: name of a window function in torch, such as 'hann_window'.
        factor_sc: weight of the spectral convergence.
        factor_mag: weight of the log magnitudes.
        normalized: whether to scale the STFT by 1 / sqrt(n_fft).
        epsilon: added to norms, and to magnitudes before the logarithm.

    Raises:
        ValueError: lists of different lengths, an unknown window or invalid sizes.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (1024, 2048, 512),
        hop_lengths: Sequence[int] = (120, 240, 50),
        win_lengths: Sequence[int] = (600, 1200, 240),
        window: str = 'hann_window',
        factor_sc: float = 0.1,
        factor_mag: float = 0.1,
        normalized: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        if not len(n_ffts) == len(hop_lengths) == len(win_lengths) > 0:
            raise ValueError(
                f'n_ffts, hop_lengths and win_lengths must have one entry per resolution, '
                f'got {list(n_ffts)}, {list(hop_lengths)} and {list(win_lengths)}'
            )
        self.magnitudes = nn.ModuleList(
            Magnitude(*sizes, window, normalized) for sizes in zip(n_ffts, hop_lengths, win_lengths)
        )
        self.factor_sc = factor_sc
        self.factor_mag = factor_mag
        self.epsilon = epsilon

    def forward(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            estimate: [B, C, T].
            reference: [B, C, T].

        Returns:
            Scalar.
        """
        check_pair(estimate, reference)
        convergence = torch.zeros((), device=estimate.device)
        log_magnitude = torch.zeros((), device=estimate.device)
        for magnitude in self.magnitudes:
            mag_est = magnitude(estimate)
            mag_ref = magnitude(reference)
            convergence = convergence + (
                torch.linalg.vector_norm(mag_ref - mag_est)
                / (torch.linalg.vector_norm(mag_ref) + self.epsilon)
            )
            log_magnitude = log_magnitude + F.l1_loss(
                torch.log(self.epsilon + mag_est), torch.log(self.epsilon + mag_ref)
            )
        return (self.factor_sc * convergence + self.factor_mag * log_magnitude) / len(
            self.magnitudes
        )


class Magnitude(nn.Module):
    """Magnitudes of the centered STFT: [..., T] to [N, 1 + T // hop_length, n_fft // 2 + 1].

    Args:
        n_fft: FFT size in samples.
        hop_length: samples between frames.
        win_length: length of the window in samples.
        window: name of a function of torch, such as hann_window.
        normalized: whether to divide by the square root of the FFT size.
        floor: power below which the magnitude is constant.
    """

    window: torch.Tensor

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        win_length: int,
        window: str,
        normalized: bool,
        floor: float = 1e-7,
    ) -> None:
        super().__init__()
        if not window.endswith('_window') or not hasattr(torch, window):
            names = sorted(name for name in dir(torch) if name.endswith('_window'))
            raise ValueError(f'window must be one of {", ".join(names)}, got {window!r}')
        if hop_length < 1:
            raise ValueError(f'hop_length must be at least 1, got {hop_length}')
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.floor = floor
        values = fft_window(getattr(torch, window)(win_length), n_fft)
        self.register_buffer(
            'window', values / math.sqrt(n_fft) if normalized else values, persistent=False
        )

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute the magnitudes, float32."""
        with torch.autocast(wav.device.type, enabled=False):
            flat = reflect_pad(
                wav.float().reshape(-1, wav.shape[-1]), self.n_fft // 2, self.n_fft // 2
            )
            power = power_spectrum(flat.unfold(-1, self.n_fft, self.hop_length) * self.window)
            # The gradient of the square root is infinite at 0: below this power the magnitude is
            # constant and has no gradient.
            return power.clamp(min=self.floor).sqrt()


def check_floor(floor_level: float) -> None:
    """Raise ValueError if a level added to, or the lowest of, a spectrogram is not positive."""
    if not floor_level > 0:
        raise ValueError(
            f'floor_level must be positive (silence has no logarithm), got {floor_level}'
        )
