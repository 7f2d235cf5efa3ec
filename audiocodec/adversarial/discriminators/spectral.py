"""Parts of the discriminators of complex time-frequency transforms."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import NormConv2d

PADDINGS = ('valid', 'center', 'same')


class SpectralDiscriminator(nn.Module):
    """Discriminator whose input is a complex STFT.

    Buffers:
        window: [win_length], not saved.

    Args:
        n_fft: FFT size in samples.
        hop_length: samples between frames, at most n_fft.
        win_length: length of the Hann window in samples, at most n_fft.
        normalized: whether to divide the STFT by the L2 norm of the window.
        padding: `valid`: none, the frames are within the audio. `center`: by reflection, so that
            frame i is centered at sample i * hop_length. `same`: by reflection, so that there are
            T / hop_length frames, rounded up, each centered within its hop, as those of a
            convolution.
        channels_last: whether `spectrum` has the channels-last memory format.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        win_length: int,
        normalized: bool,
        padding: str,
        channels_last: bool,
    ) -> None:
        super().__init__()
        for name, value in {
            'n_fft': n_fft,
            'hop_length': hop_length,
            'win_length': win_length,
        }.items():
            require_int(name, value)
        if win_length > n_fft:
            raise ValueError(
                f'win_length={win_length} is longer than n_fft={n_fft}: it must be at most n_fft'
            )
        if padding not in PADDINGS:
            raise ValueError(f'padding={padding!r} is unknown: choose one of {", ".join(PADDINGS)}')
        if padding == 'same' and (hop_length > n_fft or (n_fft - hop_length) % 2):
            raise ValueError(
                f'hop_length={hop_length}: with padding=same, n_fft={n_fft} must be longer by an '
                'even number of samples'
            )
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.win_length = win_length
        self.padding = padding
        self.channels_last = channels_last
        window = torch.hann_window(win_length)
        self.window: torch.Tensor
        self.register_buffer(
            'window', window / window.norm() if normalized else window, persistent=False
        )

    def spectrum(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute the STFT of [B, C, T] as [B, 2 C, frames, n_fft // 2 + 1].

        The first C channels are the real parts, the others the imaginary parts. The precision is
        at least float32, also under autocast.

        Raises:
            ValueError: audio shorter than one frame, or too short to be reflected.
        """
        C = wav.shape[1]
        dtype = torch.promote_types(wav.dtype, torch.float32)
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                self._pad(wav.to(dtype)).flatten(0, 1),
                self.n_fft,
                self.hop_length,
                self.win_length,
                self.window.to(dtype),
                center=False,
                return_complex=True,
            )
        return as_image(torch.view_as_real(spectrum), C, self.channels_last)

    def _pad(self, wav: torch.Tensor) -> torch.Tensor:
        """Pad [B, C, T] as described by `padding`."""
        T = wav.shape[-1]
        left = right = 0
        if self.padding == 'center':
            left = right = self.n_fft // 2
        elif self.padding == 'same':
            left = (self.n_fft - self.hop_length) // 2
            right = left + -T % self.hop_length
        if T + left + right < self.n_fft or max(left, right) >= max(T, 1):
            raise ValueError(
                f'audio of {T} samples is shorter than an STFT frame of n_fft={self.n_fft}, or '
                f'than its padding ({self.padding}): use longer segments or smaller n_ffts'
            )
        return F.pad(wav, (left, right), 'reflect') if right else wav


def as_image(parts: torch.Tensor, channels: int, channels_last: bool) -> torch.Tensor:
    """Convert a complex time-frequency transform to an image.

    Args:
        parts: [B * C, bins, frames, 2], real and imaginary parts.
        channels: channels C of the audio.
        channels_last: whether the image has the channels-last memory format.

    Returns:
        [B, 2 C, frames, bins]. The first C channels are the real parts.
    """
    _, bins, frames, _ = parts.shape
    # The memory layout of an STFT is [frames, bins, 2]. For mono, this is the channels-last format
    # already, without a copy.
    parts = parts.view(-1, channels, bins, frames, 2).permute(0, 3, 2, 4, 1)
    image = parts.reshape(-1, frames, bins, 2 * channels).permute(0, 3, 1, 2)
    return image if channels_last else image.contiguous()


def image_layers(
    channels: int,
    out_channels: int,
    filters: int,
    filters_scale: int,
    max_filters: int,
    kernel_size: Sequence[int],
    dilations: Sequence[int],
    stride: Sequence[int],
    norm: str,
) -> tuple[nn.ModuleList, NormConv2d]:
    """Create the 2-D convolutions of a discriminator of images [B, channels, frames, bins].

    They are those of the MS-STFT discriminator (EnCodec, arXiv 2210.13438, figure 2); see
    `STFTDiscriminator` for the arguments.

    Returns:
        The inner convolutions, and the one that returns the logits.

    Raises:
        ValueError: an argument out of range.
    """
    for name, value in {
        'out_channels': out_channels,
        'filters': filters,
        'filters_scale': filters_scale,
        'max_filters': max_filters,
    }.items():
        require_int(name, value)
    kernel = pair('kernel_size', kernel_size)
    step = pair('stride', stride)
    sizes = [
        min(filters_scale**index * filters, max_filters) for index in range(len(dilations) + 2)
    ]
    first = NormConv2d(channels, filters, kernel, padding=same_padding(kernel))
    convs = nn.ModuleList([first])
    narrow = filters
    for wide, dilation in zip(sizes[1:], require_ints('dilations', dilations)):
        padding = same_padding(kernel, dilation)
        convs.append(NormConv2d(narrow, wide, kernel, step, padding, (dilation, 1), norm=norm))
        narrow = wide
    square = (kernel[0], kernel[0])
    padding = same_padding(square)
    convs.append(NormConv2d(narrow, sizes[-1], square, padding=padding, norm=norm))
    return convs, NormConv2d(sizes[-1], out_channels, square, padding=padding, norm=norm)


def pair(name: str, values: Sequence[int]) -> tuple[int, int]:
    """Check an argument with one integer for time and one for frequency.

    Raises:
        ValueError: not two integers >= 1.
    """
    values_of_both = require_ints(name, values)
    if len(values_of_both) != 2:
        raise ValueError(f'{name}={list(values)}: expected two integers, for time and frequency')
    return values_of_both[0], values_of_both[1]


def same_padding(kernel: tuple[int, int], dilation: int = 1) -> tuple[int, int]:
    """Return the padding that keeps the size at stride 1, for odd kernels dilated in time."""
    return (kernel[0] - 1) * dilation // 2, (kernel[1] - 1) // 2
