"""Power and mel spectrograms, with a custom backward pass."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

BLOCK = 2**22  # samples of all frames that are transformed at once


def reflect_pad(wav: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Pad a signal on both sides by reflection.

    A signal too short to be reflected is padded with zeros first, so that any length >= 1 is
    accepted.

    Args:
        wav: [N, T].
        left: samples to add before.
        right: samples to add after.

    Returns:
        [N, left + T + right].
    """
    missing = max(0, max(left, right) + 1 - wav.shape[-1])
    if missing == 0:
        return F.pad(wav, (left, right), mode='reflect')
    length = left + wav.shape[-1] + right
    return F.pad(F.pad(wav, (0, missing)), (left, right), mode='reflect')[..., :length]


class _PowerSpectrum(torch.autograd.Function):
    """|rfft|^2 with a custom backward, about twice as fast as autograd through complex numbers.

    For real x and X[f] = sum_t x[t] e^(-i w_f t), P[f] = |X[f]|^2 has
    dP[f]/dx[t] = 2 Re(X[f] e^(i w_f t)), so that

        dL/dx[t] = sum_f 2 Re(G[f] X[f] e^(i w_f t))   with G = dL/dP.

    This sum is an unscaled inverse real FFT of G X. It counts each inner bin twice, as required,
    because of the conjugate bin; the first bin (and the last, for an even size) has none and must
    be doubled.
    """

    @staticmethod
    def forward(ctx: Any, frames: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(frames)
        ctx.save_for_backward(spectrum)
        ctx.n_fft = frames.shape[-1]
        return spectrum.real.square() + spectrum.imag.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (spectrum,) = ctx.saved_tensors
        grad = grad.clone()
        grad[..., 0] *= 2
        if ctx.n_fft % 2 == 0:
            grad[..., -1] *= 2
        return torch.fft.irfft(spectrum * grad, n=ctx.n_fft, norm='forward')


def power_spectrum(frames: torch.Tensor) -> torch.Tensor:
    """Compute the squared magnitude of the real FFT of each frame.

    Args:
        frames: [..., n_fft], real.

    Returns:
        [..., n_fft // 2 + 1].
    """
    return _PowerSpectrum.apply(frames)


def fft_window(window: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Center a window of at most `n_fft` samples in zeros, as `torch.stft` does.

    Args:
        window: [win_length].
        n_fft: samples of the FFT.

    Returns:
        [n_fft].

    Raises:
        ValueError: the window is longer than the FFT.
    """
    missing = n_fft - len(window)
    if missing < 0:
        raise ValueError(f'win_length must be at most n_fft ({n_fft}), got {len(window)}')
    return F.pad(window, (missing // 2, missing - missing // 2))


class MelSpectrogram(nn.Module):
    """Mel power spectrogram: [..., T] -> [..., ceil(T / hop_length), n_mels].

    The signal is padded by reflection by (n_fft - hop_length) / 2 samples on both sides, and its
    last frame is zero-padded. Always computed in float32. The filters are triangular on the HTK mel
    scale. A filter that falls between two bins of a small FFT is empty, and its band is zero in
    every spectrogram: EnCodec's multi-scale loss has 64 bands down to an FFT of 64 samples, of
    which 21 are empty at 24 kHz.

    Args:
        sample_rate: Hz.
        n_fft: samples of the FFT.
        hop_length: samples between frames.
        win_length: samples of the Hann window; None: n_fft.
        n_mels: number of mel bands.
        f_min: lowest frequency, Hz.
        f_max: highest frequency, Hz; None: half the sample rate.
        normalized: divide by the energy of the window.

    Buffers:
        window: [n_fft], including the normalization.
        filters: [n_fft // 2 + 1, n_mels].

    Raises:
        ValueError: invalid sizes or frequencies.
    """

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int | None = None,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        f_max = float(sample_rate // 2) if f_max is None else f_max
        if not 1 <= hop_length <= n_fft:
            raise ValueError(f'hop_length must be from 1 to n_fft ({n_fft}), got {hop_length}')
        if not 0 <= f_min < f_max <= sample_rate / 2:
            raise ValueError(
                f'mel bands need 0 <= f_min < f_max <= sample_rate / 2 ({sample_rate / 2:g} Hz), '
                f'got f_min={f_min} and f_max={f_max}'
            )
        if n_mels < 1:
            raise ValueError(f'n_mels must be at least 1, got {n_mels}')
        self.n_fft = n_fft
        self.hop_length = hop_length
        window = torch.hann_window(n_fft if win_length is None else win_length)
        if normalized:
            window = window / window.square().sum().sqrt()
        self.register_buffer('window', fft_window(window, n_fft), persistent=False)
        self.register_buffer(
            'filters', _mel_filters(n_fft, sample_rate, n_mels, f_min, f_max), persistent=False
        )

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute the mel power spectrogram.

        Args:
            wav: [..., T].

        Returns:
            [..., ceil(T / hop_length), n_mels], float32.
        """
        with torch.autocast(wav.device.type, enabled=False):
            mel = self._of_frames(self._frames(wav))
        return mel.reshape(*wav.shape[:-1], *mel.shape[1:])

    def blocks(self, wav: torch.Tensor) -> Iterator[torch.Tensor]:
        """Compute the mel power spectrogram part by part, for signals of any length.

        Args:
            wav: [N, T].

        Yields:
            [N, frames, n_mels], float32; together, the result of `forward`.
        """
        for frames in frame_blocks(self._frames(wav)):
            yield self._of_frames(frames)

    def _frames(self, wav: torch.Tensor) -> torch.Tensor:
        """Return the frames of a padded signal, [N, frames, n_fft], which share its memory."""
        flat = wav.float().reshape(-1, wav.shape[-1])
        padding = (self.n_fft - self.hop_length) // 2
        flat = reflect_pad(flat, padding, padding)
        # complete the last frame, or the only one of a short signal
        beyond = flat.shape[-1] - self.n_fft
        flat = F.pad(flat, (0, max(-beyond, -beyond % self.hop_length)))
        return flat.unfold(-1, self.n_fft, self.hop_length)

    def _of_frames(self, frames: torch.Tensor) -> torch.Tensor:
        return power_spectrum(frames * self.window) @ self.filters


def frame_blocks(frames: torch.Tensor) -> Iterator[torch.Tensor]:
    """Split the frames of a long signal, so that spectra of a part fit into a small memory.

    Args:
        frames: [N, frames, n_fft].

    Yields:
        Parts of at most `BLOCK` samples, at least one frame.
    """
    yield from frames.split(max(1, BLOCK // (frames.shape[0] * frames.shape[2])), dim=1)


def _mel_filters(
    n_fft: int, sample_rate: int, n_mels: int, f_min: float, f_max: float
) -> torch.Tensor:
    """Return triangular filters, equally spaced on HTK's scale: mel(f) = 2595 log10(1 + f / 700).

    Filter m rises from 0 at edge m to 1 at edge m + 1 and falls to 0 at edge m + 2:

        filter[f, m] = max(0, min((f - e[m]) / (e[m+1] - e[m]), (e[m+2] - f) / (e[m+2] - e[m+1])))

    Equal to torchaudio's `melscale_fbanks` bit for bit: computed in float32, with the highest bin
    at sample_rate // 2 for odd rates too.

    Returns:
        [n_fft // 2 + 1, n_mels].
    """
    frequencies = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)[:, None]
    lowest = 2595 * math.log10(1 + f_min / 700)
    highest = 2595 * math.log10(1 + f_max / 700)
    edges = 700 * (10 ** (torch.linspace(lowest, highest, n_mels + 2) / 2595) - 1)
    left = edges[:-2]
    center = edges[1:-1]
    right = edges[2:]
    rising = (frequencies - left) / (center - left)
    falling = (right - frequencies) / (right - center)
    return torch.minimum(rising, falling).clamp(min=0)


def slaney_filters(
    n_fft: int, sample_rate: int, n_mels: int, f_min: float, f_max: float
) -> torch.Tensor:
    """Return triangular filters of equal area, equally spaced on Slaney's mel scale.

    The scale is linear up to 1000 Hz, with 3 mel per 200 Hz, and logarithmic above, with 27 mel per
    factor of 6.4 (Auditory Toolbox; the default of librosa). Each filter is divided by half of its
    width in Hz.

    Returns:
        [n_fft // 2 + 1, n_mels], float32.
    """
    step = math.log(6.4) / 27
    lowest, highest = (
        f * 3 / 200 if f < 1000 else 15 + math.log(f / 1000) / step for f in (f_min, f_max)
    )
    mels = torch.linspace(lowest, highest, n_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp(step * (mels - 15)))
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])
    return filters.float()
