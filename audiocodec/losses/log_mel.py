"""Multi-scale log mel loss of DAC, computed in float32 also under autocast."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.dsp.sisnr import check_pair
from audiocodec.dsp.spectra import slaney_filters
from audiocodec.losses.spectral import Magnitude, check_floor
from audiocodec.modules.checks import require_ints


class MultiScaleLogMelLoss(nn.Module):
    """L1 distance of log10 mel spectrograms, summed over FFT sizes.

    See DAC, arXiv 2306.06546, section 3.5: amplitudes, not powers, through area-normalized filters
    on Slaney's mel scale, with a hop of a quarter of the FFT and centered frames.

    Args:
        sample_rate: sample rate in Hz.
        n_ffts: FFT sizes in samples.
        n_mels: number of mel bands of each.
        f_min: lowest frequency in Hz.
        f_max: highest frequency in Hz; None: half the sample rate.
        floor_level: lowest amplitude of a band.

    Raises:
        ValueError: sizes that do not match or are out of range.
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        n_mels: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
        f_min: float = 0.0,
        f_max: float | None = None,
        floor_level: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes, bands = require_ints('n_ffts', n_ffts, minimum=4), require_ints('n_mels', n_mels)
        if len(sizes) != len(bands):
            raise ValueError(
                f'n_ffts={list(sizes)} and n_mels={list(bands)} must have the same length'
            )
        check_floor(floor_level)
        highest = sample_rate / 2 if f_max is None else f_max
        self.floor_level = floor_level
        self.scales = nn.ModuleList(
            _MelAmplitudes(sample_rate, n_fft, number, f_min, highest)
            for n_fft, number in zip(sizes, bands)
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
        losses = []
        with torch.autocast(estimate.device.type, enabled=False):
            for scale in self.scales:
                pair = [scale(wav).clamp(min=self.floor_level) for wav in (estimate, reference)]
                losses.append(F.l1_loss(pair[0].log10(), pair[1].log10()))
            return torch.stack(losses).sum()


class _MelAmplitudes(nn.Module):
    """Mel amplitudes of the centered STFT: [..., T] to [N, 1 + T // hop_length, n_mels]."""

    filters: torch.Tensor

    def __init__(
        self, sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float
    ) -> None:
        super().__init__()
        # this power is far below any floor of the bands
        self.magnitude = Magnitude(n_fft, n_fft // 4, n_fft, 'hann_window', False, floor=1e-20)
        filters = slaney_filters(n_fft, sample_rate, n_mels, f_min, f_max)
        self.register_buffer('filters', filters, persistent=False)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        return self.magnitude(wav) @ self.filters
