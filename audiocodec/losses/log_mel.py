"""Multi-scale log mel loss of DAC (arXiv 2306.06546, section 3.5), in float32."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.dsp.sisnr import check_pair
from audiocodec.dsp.spectra import power_spectrum, reflect_pad


class MultiScaleLogMelLoss(nn.Module):
    """L1 distance of log10 mel spectra of magnitudes, summed over window lengths.

    Frames are centered, with reflected padding at the ends of the signal and a hop of a quarter of
    the window. The mel filters are those of Slaney's Auditory Toolbox, with unit area, as in
    librosa; those of the other losses are HTK's.

    Args:
        sample_rate: sample rate in Hz.
        win_lengths: lengths of the Hann windows in samples, multiples of 4.
        n_mels: number of mel bands for each window.
        floor_level: lowest mel magnitude before the logarithm.

    Raises:
        ValueError: lists of different lengths, or invalid sizes.
    """

    def __init__(
        self,
        sample_rate: int,
        win_lengths: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        n_mels: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
        floor_level: float = 1e-5,
    ) -> None:
        super().__init__()
        if not len(win_lengths) == len(n_mels) > 0:
            raise ValueError(
                'win_lengths and n_mels must have one entry per scale, got '
                f'{list(win_lengths)} and {list(n_mels)}'
            )
        if any(length < 4 or length % 4 for length in win_lengths) or min(n_mels) < 1:
            raise ValueError(
                'win_lengths must be multiples of 4 and n_mels at least 1, got '
                f'{list(win_lengths)} and {list(n_mels)}'
            )
        if not floor_level > 0:
            raise ValueError(
                f'floor_level must be positive (silence has no logarithm), got {floor_level}'
            )
        self.scales = nn.ModuleList(
            _LogMel(sample_rate, length, bands, floor_level)
            for length, bands in zip(win_lengths, n_mels)
        )

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
        for log_mel in self.scales:
            loss = loss + F.l1_loss(log_mel(estimate), log_mel(reference))
        return loss


class _LogMel(nn.Module):
    """log10 of mel magnitudes: [B, C, T] to [B * C, 1 + 4 T // window, n_mels]."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, sample_rate: int, win_length: int, n_mels: int, floor_level: float) -> None:
        super().__init__()
        self.floor_level = floor_level
        self.register_buffer('window', torch.hann_window(win_length), persistent=False)
        filters = slaney_filters(win_length, sample_rate, n_mels)
        self.register_buffer('filters', filters, persistent=False)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        size = len(self.window)
        with torch.autocast(wav.device.type, enabled=False):
            flat = reflect_pad(wav.float().reshape(-1, wav.shape[-1]), size // 2, size // 2)
            power = power_spectrum(flat.unfold(-1, size, size // 4) * self.window)
            # The gradient of the square root is infinite at 0: such magnitudes get none.
            mel = power.clamp(min=1e-16).sqrt() @ self.filters
            return mel.clamp(min=self.floor_level).log10()


def slaney_filters(n_fft: int, sample_rate: int, n_mels: int) -> torch.Tensor:
    """Return triangular filters of unit area on Slaney's mel scale, from 0 to half the rate.

    The scale is linear up to 1 kHz, at 15 mel, and then logarithmic with 27 mel per factor of 6.4.

    Returns:
        [n_fft // 2 + 1, n_mels], float32.
    """
    step = math.log(6.4) / 27
    top = sample_rate / 2
    highest = 15 + math.log(top / 1000) / step if top >= 1000 else 3 * top / 200
    mels = torch.linspace(0, highest, n_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, 200 / 3 * mels, 1000 * torch.exp((mels - 15) * step))
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    frequencies = torch.linspace(0, top, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - left) / (center - left)
    falling = (right - frequencies) / (right - center)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)).float()
