"""Pictures of audio: spectrograms and waveforms."""

import torch

from audiocodec.dsp.spectra import MelSpectrogram


def colors(gray: torch.Tensor) -> torch.Tensor:
    """Color levels: black, violet, orange, pale yellow, with evenly increasing lightness.

    Args:
        gray: [...] in [0, 1].

    Returns:
        [3, ...] in [0, 1]: red, green, blue.
    """
    red = (1.5 * gray).clamp(0, 1)
    green = (2 * gray - 0.7).clamp(0, 1)
    triangle = torch.where(gray < 0.5, gray, (1 - gray)).mul(1.1)
    blue = triangle.add((4 * gray - 3).clamp(0, 1)).clamp(0, 1)
    return torch.stack([red, green, blue])


def audio_picture(
    wav: torch.Tensor,
    sample_rate: int,
    width: int = 800,
    heights: tuple[int, int] = (128, 40),
    floor_db: float = -80.0,
) -> torch.Tensor:
    """Draw a mel spectrogram above the waveform, both over the whole width.

    Args:
        wav: float [C, T].
        sample_rate: Hz.
        width: pixels.
        heights: pixels of spectrogram (one mel band each) and waveform.
        floor_db: level of black, relative to a full-scale sine.

    Returns:
        float [3, sum(heights), width] in [0, 1].
    """
    n_fft = 2048 if sample_rate > 32000 else 1024
    mel = MelSpectrogram(sample_rate, n_fft, n_fft // 4, n_mels=heights[0])(wav.mean(0))
    level = 10 * torch.log10(mel / (n_fft / 4) ** 2 + 1e-10)
    gray = (1 - level / floor_db).clamp(0, 1).T.flip(0)[None, None]
    spectrum = torch.nn.functional.interpolate(gray, (heights[0], width), mode='area')[0, 0]
    peaks = torch.nn.functional.adaptive_max_pool1d(wav.abs().amax(0)[None], width)[0]
    rows = torch.linspace(1, -1, heights[1]).abs()[:, None]
    wave = torch.where(rows <= peaks.clamp(0, 1), 0.75, 0.08)
    return torch.cat([colors(spectrum), wave.expand(3, -1, -1)], 1)
