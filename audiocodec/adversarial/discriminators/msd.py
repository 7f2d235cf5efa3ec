"""Multi-scale waveform discriminator.

See MelGAN (arXiv 1910.06711, section 2.2) and HiFi-GAN (arXiv 2010.05646).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.adversarial.discriminators.base import (
    MultiDiscriminator,
    feature_maps,
    layer_activation,
)
from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import NormConv1d


class ScaleDiscriminator(nn.Module):
    """Strided, grouped convolutions over the waveform.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        kernel_sizes: two odd sizes: the kernel sizes of the last two convolutions. Their product
            is the kernel size of the first convolution.
        filters: filters of the first convolution.
        max_filters: maximum number of filters per layer.
        downsample_scales: one scale per inner convolution: the growth of the filters, and the
            default stride.
        inner_kernel_sizes: kernel sizes of the inner convolutions; default 10 * scale + 1.
        groups: groups of the inner convolutions; default a quarter of their input channels.
        strides: strides of the inner convolutions; default the scale.
        paddings: paddings of the inner convolutions; default 5 * scale.
        norm: one of `audiocodec.modules.norm.CONV_NORMS`.
        activation: class of `torch.nn`.
        activation_params: arguments of the activation.
        pad: class of `torch.nn` that pads the input of the first convolution.
        pad_params: arguments of the padding.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        kernel_sizes: Sequence[int] = (5, 3),
        filters: int = 16,
        max_filters: int = 1024,
        downsample_scales: Sequence[int] = (4, 4, 4, 4),
        inner_kernel_sizes: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        paddings: Sequence[int] | None = None,
        norm: str = 'weight_norm',
        activation: str = 'LeakyReLU',
        activation_params: Mapping[str, Any] | None = None,
        pad: str = 'ReflectionPad1d',
        pad_params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in {
            'in_channels': in_channels,
            'out_channels': out_channels,
            'filters': filters,
            'max_filters': max_filters,
        }.items():
            require_int(name, value)
        sizes = require_ints('kernel_sizes', kernel_sizes)
        if len(sizes) != 2 or not all(size % 2 for size in sizes):
            raise ValueError(f'kernel_sizes={list(kernel_sizes)}: expected two odd sizes')
        scales = require_ints('downsample_scales', downsample_scales)
        inner = {
            name: _per_scale(name, values, len(scales), minimum)
            for name, values, minimum in (
                ('inner_kernel_sizes', inner_kernel_sizes, 1),
                ('groups', groups, 1),
                ('strides', strides, 1),
                ('paddings', paddings, 0),
            )
        }
        self.activation = layer_activation(
            activation, {'negative_slope': 0.2} if activation_params is None else activation_params
        )

        first = math.prod(sizes)
        # Reflection needs at least one sample more than it pads.
        self.min_length = first // 2 + 1 if pad.startswith('Reflection') else 1
        self.convs = nn.ModuleList(
            [
                nn.Sequential(
                    _make_padding(pad, first // 2, pad_params),
                    NormConv1d(in_channels, filters, first, norm=norm),
                )
            ]
        )
        channels = filters
        for index, scale in enumerate(scales):
            wider = min(channels * scale, max_filters)
            kernel, group, stride, padding = (inner[name][index] for name in inner)
            kernel = kernel or 10 * scale + 1
            padding = 5 * scale if padding is None else padding
            group = group or max(channels // 4, 1)
            if channels % group or wider % group:
                raise ValueError(
                    f'groups={group} of an inner convolution must divide its {channels} input '
                    f'and {wider} output channels: change groups, filters, downsample_scales or '
                    'max_filters'
                )
            self.convs.append(
                NormConv1d(
                    channels,
                    wider,
                    kernel,
                    stride=stride or scale,
                    padding=padding,
                    groups=group,
                    norm=norm,
                )
            )
            channels = wider
        wider = min(channels * 2, max_filters)
        self.convs.append(NormConv1d(channels, wider, sizes[0], padding=sizes[0] // 2, norm=norm))
        self.conv_post = NormConv1d(wider, out_channels, sizes[1], padding=sizes[1] // 2, norm=norm)

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify audio as real or fake.

        Args:
            wav: [B, in_channels, T].

        Returns:
            Logits [B, out_channels, steps]; feature maps of all layers, the logits last.

        Raises:
            ValueError: audio too short to be reflected.
        """
        if wav.shape[-1] < self.min_length:
            raise ValueError(
                f'audio of {wav.shape[-1]} samples is too short for the reflection padding of the '
                f'first layer: at least {self.min_length} samples are needed at every scale'
            )
        features = feature_maps(wav, self.convs, self.activation)
        logits = self.conv_post(features[-1])
        return logits, [*features, logits]


class MultiScaleDiscriminator(MultiDiscriminator):
    """Several scale discriminators, optionally of downsampled audio.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        downsample_factor: factor of the average pooling between consecutive scales.
        scale_norms: norm of each scale.
        downsample: whether to pool between the scales, as in the papers. By default, all scales get
            the audio at the full rate, as in AudioCraft, which computes the pooled audio but does
            not use it.
        **kwargs: arguments of `ScaleDiscriminator`.

    Raises:
        ValueError: an argument out of range.
    """

    arguments_of = ScaleDiscriminator

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        downsample_factor: int = 2,
        scale_norms: Sequence[str] = ('weight_norm', 'weight_norm', 'weight_norm'),
        downsample: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            [
                ScaleDiscriminator(in_channels, out_channels, norm=norm, **kwargs)
                for norm in scale_norms
            ],
            in_channels,
        )
        require_int('downsample_factor', downsample_factor)
        self.pool = (
            nn.AvgPool1d(2 * downsample_factor, downsample_factor, padding=downsample_factor)
            if downsample
            else None
        )

    def prepare(self, wav: torch.Tensor, position: int) -> torch.Tensor:
        """Pool the input of the previous scale, with `downsample`."""
        return self.pool(wav) if self.pool is not None and position else wav


def _per_scale(
    name: str, values: Sequence[int] | None, count: int, minimum: int
) -> tuple[int | None, ...]:
    """Check an optional argument with one integer per scale; return Nones if it is not given."""
    if values is None:
        return (None,) * count
    if len(values) != count:
        raise ValueError(
            f'{name}={list(values)}: expected {count} values, one per scale of downsample_scales'
        )
    return require_ints(name, values, minimum)


def _make_padding(name: str, padding: int, params: Mapping[str, Any] | None) -> nn.Module:
    cls = getattr(nn, name, None)
    if not name.endswith('Pad1d') or cls is None:
        raise ValueError(
            f'pad={name!r} is not a 1-D padding of torch.nn: use ReflectionPad1d, for instance'
        )
    return cls(padding, **(params or {}))
