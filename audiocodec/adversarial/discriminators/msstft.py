"""Multi-scale STFT discriminator (EnCodec, arXiv 2210.13438, section 3.4 and figure 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.adversarial.discriminators.base import MultiDiscriminator, layer_activation
from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import NormConv2d


class STFTDiscriminator(nn.Module):
    """2-D convolutions over a complex STFT, its real and imaginary parts as channels.

    Buffers:
        window: [win_length], not saved.

    Args:
        filters: of the first convolution.
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        n_fft: size of the FFT, in samples.
        hop_length: samples between frames.
        win_length: Hann window, in samples, at most n_fft.
        max_filters: upper bound of the filters of any layer.
        filters_scale: growth of the filters from layer to layer.
        kernel_size: of the inner convolutions, (time, frequency).
        dilations: in time, of the inner convolutions, one convolution each.
        stride: of the inner convolutions, (time, frequency).
        normalized: divide the STFT by the L2 norm of the window.
        norm: one of `audiocodec.modules.norm.CONV_NORMS`; the first convolution has none.
        activation: class of `torch.nn`.
        activation_params: its arguments.
        channels_last: memory format of the convolutions, which changes no value beyond rounding. On
            a CPU they take about two thirds of the time so, and it is the format that tensor cores
            work in.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        filters: int,
        in_channels: int = 1,
        out_channels: int = 1,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        max_filters: int = 1024,
        filters_scale: int = 1,
        kernel_size: Sequence[int] = (3, 9),
        dilations: Sequence[int] = (1, 2, 4),
        stride: Sequence[int] = (1, 2),
        normalized: bool = True,
        norm: str = 'weight_norm',
        activation: str = 'LeakyReLU',
        activation_params: Mapping[str, Any] | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        for name, value in {
            'filters': filters,
            'in_channels': in_channels,
            'out_channels': out_channels,
            'n_fft': n_fft,
            'hop_length': hop_length,
            'win_length': win_length,
            'max_filters': max_filters,
            'filters_scale': filters_scale,
        }.items():
            require_int(name, value)
        if win_length > n_fft:
            raise ValueError(
                f'win_length={win_length} is longer than n_fft={n_fft}: it must be at most n_fft.'
            )
        kernel, inner_stride = _pair('kernel_size', kernel_size), _pair('stride', stride)
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.channels_last = channels_last
        self.activation = layer_activation(
            activation, {'negative_slope': 0.2} if activation_params is None else activation_params
        )
        window = torch.hann_window(win_length)
        self.window: torch.Tensor
        self.register_buffer(
            'window', window / window.norm() if normalized else window, persistent=False
        )

        self.convs = nn.ModuleList(
            [NormConv2d(2 * in_channels, filters, kernel, padding=_padding(kernel))]
        )
        channels = filters
        for index, dilation in enumerate(require_ints('dilations', dilations)):
            wider = min(filters_scale ** (index + 1) * filters, max_filters)
            self.convs.append(
                NormConv2d(
                    channels,
                    wider,
                    kernel,
                    stride=inner_stride,
                    dilation=(dilation, 1),
                    padding=_padding(kernel, dilation),
                    norm=norm,
                )
            )
            channels = wider
        square = (kernel[0], kernel[0])
        wider = min(filters_scale ** (len(dilations) + 1) * filters, max_filters)
        self.convs.append(NormConv2d(channels, wider, square, padding=_padding(square), norm=norm))
        self.conv_post = NormConv2d(
            wider, out_channels, square, padding=_padding(square), norm=norm
        )

    def spectrum(self, wav: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, 2 C, frames, n_fft // 2 + 1]: real parts of all channels, then
        imaginary parts.

        In float32 at least, under autocast too.
        """
        B, C, _ = wav.shape
        dtype = torch.promote_types(wav.dtype, torch.float32)
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.to(dtype).flatten(0, 1),
                self.n_fft,
                self.hop_length,
                self.win_length,
                self.window.to(dtype),
                center=False,
                return_complex=True,
            )
        _, bins, frames = spectrum.shape
        # The transform lies in memory as [frames, bins, 2]: for mono that is the channels-last
        # format, without a copy.
        parts = torch.view_as_real(spectrum).view(B, C, bins, frames, 2).permute(0, 3, 2, 4, 1)
        image = parts.reshape(B, frames, bins, 2 * C).permute(0, 3, 1, 2)
        return image if self.channels_last else image.contiguous()

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Judge audio.

        Args:
            wav: [B, in_channels, T], T >= n_fft.

        Returns:
            Logits [B, out_channels, frames, bins]; feature maps of all layers but the last, [B,
            filters, frames, bins].

        Raises:
            ValueError: less audio than one frame.
        """
        if wav.shape[-1] < self.n_fft:
            raise ValueError(
                f'{wav.shape[-1]} samples of audio are less than one STFT frame of '
                f'n_fft={self.n_fft}: '
                'use longer segments or smaller n_ffts.'
            )
        x = self.spectrum(wav)
        features = []
        for conv in self.convs:
            x = self.activation(conv(x))
            features.append(x)
        return self.conv_post(x), features


class MultiScaleSTFTDiscriminator(MultiDiscriminator):
    """STFT discriminators at several resolutions.

    Args:
        filters: of the first convolutions.
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        sep_channels: judge every channel of the audio alone, as an item of the batch, instead of
            all together.
        n_ffts: size of the FFT per scale, in samples.
        hop_lengths: samples between frames, per scale.
        win_lengths: window per scale, in samples.
        **kwargs: of `STFTDiscriminator`.

    Raises:
        ValueError: an argument out of range, or scales given in different numbers.
    """

    arguments_of = STFTDiscriminator

    def __init__(
        self,
        filters: int = 32,
        in_channels: int = 1,
        out_channels: int = 1,
        sep_channels: bool = False,
        n_ffts: Sequence[int] = (1024, 2048, 512),
        hop_lengths: Sequence[int] = (256, 512, 128),
        win_lengths: Sequence[int] = (1024, 2048, 512),
        **kwargs: Any,
    ) -> None:
        if not len(n_ffts) == len(hop_lengths) == len(win_lengths):
            raise ValueError(
                f'n_ffts={list(n_ffts)}, hop_lengths={list(hop_lengths)} and '
                f'win_lengths={list(win_lengths)}: expected one of each per scale.'
            )
        require_int('in_channels', in_channels)
        super().__init__(
            [
                STFTDiscriminator(
                    filters,
                    1 if sep_channels else in_channels,
                    out_channels,
                    n_fft=n_fft,
                    hop_length=hop_length,
                    win_length=win_length,
                    **kwargs,
                )
                for n_fft, hop_length, win_length in zip(n_ffts, hop_lengths, win_lengths)
            ],
            in_channels,
            turns=sorted(
                range(len(n_ffts)),
                reverse=True,  # most bins per sample first
                key=lambda index: (n_ffts[index] // 2 + 1) / hop_lengths[index],
            ),
        )
        self.sep_channels = sep_channels

    def prepare(self, wav: torch.Tensor, turn: int) -> torch.Tensor:
        """Turn channels into items, once, if they are judged alone."""
        return wav.reshape(-1, 1, wav.shape[-1]) if self.sep_channels and turn == 0 else wav


def _pair(name: str, values: Sequence[int]) -> tuple[int, int]:
    pair = require_ints(name, values)
    if len(pair) != 2:
        raise ValueError(f'{name}={list(values)}: expected two integers, for time and frequency.')
    return pair[0], pair[1]


def _padding(kernel: tuple[int, int], dilation: int = 1) -> tuple[int, int]:
    """Padding that keeps the size under stride 1, for odd kernels dilated in time."""
    return (kernel[0] - 1) * dilation // 2, (kernel[1] - 1) // 2
