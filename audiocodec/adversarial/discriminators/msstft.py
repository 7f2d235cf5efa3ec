"""Multi-scale STFT discriminator (EnCodec, arXiv 2210.13438, section 3.4 and figure 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from audiocodec.adversarial.discriminators.base import (
    MultiDiscriminator,
    feature_maps,
    layer_activation,
)
from audiocodec.adversarial.discriminators.spectral import (
    SpectralDiscriminator,
    image_layers,
)
from audiocodec.modules.checks import require_int


class STFTDiscriminator(SpectralDiscriminator):
    """2-D convolutions over a complex STFT, with real and imaginary parts as channels.

    Buffers:
        window: [win_length], not saved.

    Args:
        filters: filters of the first convolution.
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        n_fft: FFT size in samples.
        hop_length: samples between frames.
        win_length: length of the Hann window in samples, at most n_fft.
        max_filters: maximum number of filters per layer.
        filters_scale: growth of the filters per layer.
        kernel_size: kernel size of the inner convolutions, (time, frequency).
        dilations: dilation in time of each inner convolution.
        stride: stride of the inner convolutions, (time, frequency).
        normalized: whether to divide the STFT by the L2 norm of the window.
        norm: one of `audiocodec.modules.norm.CONV_NORMS`; the first convolution has none.
        activation: class of `torch.nn`.
        activation_params: arguments of the activation.
        channels_last: whether to convolve in the channels-last memory format. It changes values by
            rounding only, takes about two thirds of the time on a CPU, and is the native format of
            tensor cores.

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
        super().__init__(n_fft, hop_length, win_length, normalized, 'valid', channels_last)
        require_int('in_channels', in_channels)
        self.activation = layer_activation(
            activation, {'negative_slope': 0.2} if activation_params is None else activation_params
        )
        self.convs, self.conv_post = image_layers(
            2 * in_channels,
            out_channels,
            filters,
            filters_scale,
            max_filters,
            kernel_size,
            dilations,
            stride,
            norm,
        )

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify audio as real or fake.

        Args:
            wav: [B, in_channels, T], T >= n_fft.

        Returns:
            Logits [B, out_channels, frames, bins]; feature maps of all layers except the last,
            [B, filters, frames, bins].

        Raises:
            ValueError: audio shorter than one frame.
        """
        features = feature_maps(self.spectrum(wav), self.convs, self.activation)
        return self.conv_post(features[-1]), features


class MultiScaleSTFTDiscriminator(MultiDiscriminator):
    """STFT discriminators at several resolutions.

    Args:
        filters: filters of the first convolution of each scale.
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        sep_channels: whether to classify each audio channel separately, as an item of the batch.
        n_ffts: FFT size of each scale, in samples.
        hop_lengths: samples between frames, for each scale.
        win_lengths: window length of each scale, in samples.
        **kwargs: arguments of `STFTDiscriminator`.

    Raises:
        ValueError: an argument out of range, or lists of different lengths.
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
                f'win_lengths={list(win_lengths)}: expected one of each per scale'
            )
        require_int('in_channels', in_channels)
        discriminators = [
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
        ]

        def bins_per_sample(index: int) -> float:
            return (n_ffts[index] // 2 + 1) / hop_lengths[index]

        order = sorted(range(len(n_ffts)), reverse=True, key=bins_per_sample)
        super().__init__(discriminators, in_channels, order)
        self.sep_channels = sep_channels

    def prepare(self, wav: torch.Tensor, position: int) -> torch.Tensor:
        """Move channels to the batch dimension, once, with `sep_channels`."""
        return wav.reshape(-1, 1, wav.shape[-1]) if self.sep_channels and position == 0 else wav
