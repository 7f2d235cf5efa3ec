"""Multi-scale sub-band constant-Q transform discriminator (arXiv 2311.14957, section 2)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.adversarial.discriminators.base import (
    MultiDiscriminator,
    feature_maps,
    layer_activation,
)
from audiocodec.adversarial.discriminators.spectral import (
    as_image,
    image_layers,
    pair,
    same_padding,
)
from audiocodec.dsp.resample import resampler
from audiocodec.modules.checks import require_int
from audiocodec.modules.conv import NormConv2d
from audiocodec.utils.errors import require

LOWEST_FREQUENCY = 32.70  # Hz, the note C1


class CQTDiscriminator(nn.Module):
    """2-D convolutions over a complex constant-Q transform, the first of them separate per octave.

    The transform is that of nnAudio. Like there, each octave is computed from audio halved in rate
    once more than for the next higher one, and each halving is early by half a sample of its input.
    The octaves are therefore shifted against each other, which the first convolutions can undo.
    Audio is first converted to twice its rate, so that the highest octave is below half of it.

    Buffers:
        upsampling: filters of the conversion, [2, 1, n], not saved; nor are those of the transform.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        sample_rate: of the audio (Hz).
        hop_length: samples between frames, at twice the rate of the audio; a multiple of
            2 ** (n_octaves - 1).
        bins_per_octave: bins per octave.
        n_octaves: octaves from 32.7 Hz; those entirely above half of the sample rate are left out.
        filters: filters of the first convolution over all octaves.
        max_filters: maximum number of filters per layer.
        filters_scale: growth of the filters per layer.
        kernel_size: kernel size of the inner convolutions, (time, frequency).
        dilations: dilation in time of each inner convolution.
        stride: stride of the inner convolutions, (time, frequency).
        norm: one of `audiocodec.modules.norm.CONV_NORMS`; the first convolutions have none.
        activation: class of `torch.nn`.
        activation_params: arguments of the activation.
        channels_last: whether to convolve in the channels-last memory format, see
            `STFTDiscriminator`.

    Raises:
        ValueError: an argument out of range, or nnAudio is not installed.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        sample_rate: int = 24000,
        hop_length: int = 256,
        bins_per_octave: int = 48,
        n_octaves: int = 9,
        filters: int = 32,
        max_filters: int = 1024,
        filters_scale: int = 1,
        kernel_size: Sequence[int] = (3, 9),
        dilations: Sequence[int] = (1, 2, 4),
        stride: Sequence[int] = (1, 2),
        norm: str = 'weight_norm',
        activation: str = 'LeakyReLU',
        activation_params: Mapping[str, Any] | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        for name, value in {
            'in_channels': in_channels,
            'sample_rate': sample_rate,
            'hop_length': hop_length,
            'bins_per_octave': bins_per_octave,
            'n_octaves': n_octaves,
        }.items():
            require_int(name, value)
        self.bins_per_octave = bins_per_octave
        self.n_octaves = min(n_octaves, _octaves_below(sample_rate / 2))
        self.channels_last = channels_last
        self.upsampling: torch.Tensor
        self.register_buffer(
            'upsampling', resampler(1, 2).kernel[:, None].clone(), persistent=False
        )
        self.transform = _transform(2 * sample_rate, hop_length, bins_per_octave, self.n_octaves)
        self.activation = layer_activation(
            activation, {'negative_slope': 0.1} if activation_params is None else activation_params
        )
        kernel = pair('kernel_size', kernel_size)
        wide = 2 * in_channels
        self.octave_convs = nn.ModuleList(
            NormConv2d(wide, wide, kernel, padding=same_padding(kernel))
            for _ in range(self.n_octaves)
        )
        self.convs, self.conv_post = image_layers(
            wide,
            out_channels,
            filters,
            filters_scale,
            max_filters,
            kernel_size,
            dilations,
            stride,
            norm,
        )

    def spectrum(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute the constant-Q transform of [B, C, T] as [B, 2 C, frames, bins].

        Frame i is centered at sample i * hop_length of the audio at twice the rate, and bin k at
        32.7 Hz * 2 ** (k / bins_per_octave). The first C channels are the real parts, the others
        the imaginary parts. The precision is float32, also under autocast.

        Raises:
            ValueError: audio too short to be halved in rate for every octave.
        """
        if wav.shape[-1] < 2**self.n_octaves:
            raise ValueError(
                f'audio of {wav.shape[-1]} samples is too short for {self.n_octaves} octaves, '
                f'which need {2**self.n_octaves}: use longer segments or smaller n_octaves'
            )
        with torch.autocast(wav.device.type, enabled=False):
            return as_image(
                self.transform(self._upsample(wav.float())), wav.shape[1], self.channels_last
            )

    def _upsample(self, wav: torch.Tensor) -> torch.Tensor:
        """Convert [B, C, T] to twice the rate, [B * C, 2 T]; see `dsp.resample`.

        Its filters are a buffer, since `resample` would copy them to the device in every update.
        """
        reach = self.upsampling.shape[-1] // 2
        padded = F.pad(wav.flatten(0, 1)[:, None], (reach, reach), 'replicate')
        return F.conv1d(padded, self.upsampling).transpose(1, 2).flatten(1)

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify audio as real or fake.

        Args:
            wav: [B, in_channels, T].

        Returns:
            Logits [B, out_channels, frames, bins]; feature maps of all layers after the first ones
            per octave, except the last, [B, filters, frames, bins].

        Raises:
            ValueError: audio too short, see `spectrum`.
        """
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        octaves = self.spectrum(wav).split(self.bins_per_octave, dim=-1)
        x = torch.cat(
            [
                conv(octave.contiguous(memory_format=layout))
                for conv, octave in zip(self.octave_convs, octaves)
            ],
            dim=-1,
        )
        features = feature_maps(x, self.convs, self.activation)
        return self.conv_post(features[-1]), features


class MultiScaleCQTDiscriminator(MultiDiscriminator):
    """Constant-Q transform discriminators at several resolutions in time and frequency.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        hop_lengths: samples between frames of each scale, at twice the rate of the audio.
        bins_per_octaves: bins per octave of each scale.
        peak: peak to which the audio is scaled, see `MultiDiscriminator`.
        **kwargs: arguments of `CQTDiscriminator`.

    Raises:
        ValueError: an argument out of range, lists of different lengths, or nnAudio is missing.
    """

    arguments_of = CQTDiscriminator

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        hop_lengths: Sequence[int] = (512, 256, 256),
        bins_per_octaves: Sequence[int] = (24, 36, 48),
        peak: float | None = None,
        **kwargs: Any,
    ) -> None:
        if len(hop_lengths) != len(bins_per_octaves):
            raise ValueError(
                f'hop_lengths={list(hop_lengths)} and bins_per_octaves={list(bins_per_octaves)}: '
                'expected one of each per scale'
            )
        super().__init__(
            [
                CQTDiscriminator(
                    in_channels, out_channels, hop_length=hop, bins_per_octave=bins, **kwargs
                )
                for hop, bins in zip(hop_lengths, bins_per_octaves)
            ],
            in_channels,
            peak=peak,
        )


def _octaves_below(frequency: float) -> int:
    """Return the number of octaves from the lowest frequency until one includes this one (Hz).

    Raises:
        ValueError: not above the lowest frequency.
    """
    if frequency <= LOWEST_FREQUENCY:
        raise ValueError(
            f'sample_rate={2 * frequency:g}: expected more than {2 * LOWEST_FREQUENCY:g} Hz, the '
            'lowest octave'
        )
    return math.ceil(math.log2(frequency / LOWEST_FREQUENCY))


def _transform(
    sample_rate: int, hop_length: int, bins_per_octave: int, n_octaves: int
) -> nn.Module:
    """Create the transform of [B, T] to [B, bins, frames, 2], with buffers that are not saved.

    Raises:
        ValueError: a hop that cannot be halved for every octave, or nnAudio is not installed.
    """
    if hop_length % 2 ** (n_octaves - 1):
        raise ValueError(
            f'hop_length={hop_length}: expected a multiple of {2 ** (n_octaves - 1)} for '
            f'{n_octaves} octaves, each at half the rate of the next'
        )
    require('the constant-Q transform discriminator', 'cqt', 'nnAudio')
    from nnAudio.features.cqt import CQT2010v2

    cqt = CQT2010v2(
        sr=sample_rate,
        hop_length=hop_length,
        fmin=LOWEST_FREQUENCY,
        n_bins=bins_per_octave * n_octaves,
        bins_per_octave=bins_per_octave,
        pad_mode='constant',
        earlydownsample=False,
        output_format='Complex',
        verbose=False,
    )
    for name, buffer in list(cqt.named_buffers()):
        cqt.register_buffer(name, buffer, persistent=False)
    return cqt
