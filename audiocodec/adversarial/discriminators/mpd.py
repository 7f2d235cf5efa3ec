"""Multi-period discriminator (HiFi-GAN, arXiv 2010.05646, section 2.3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.adversarial.discriminators.base import (
    MultiDiscriminator,
    feature_maps,
    layer_activation,
    require_first_feature,
)
from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import NormConv2d


class PeriodDiscriminator(nn.Module):
    """Convolutions in time over every `period`-th sample, with the same weights for all phases.

    Args:
        period: period in samples.
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        n_layers: number of inner convolutions, before the last one.
        kernel_sizes: kernel size of the inner convolutions, and of the last one.
        stride: stride of the inner convolutions; the last of them has a stride of 1.
        filters: layer i, counted from 1, has filters * filters_scale ** i filters.
        filters_scale: growth of the filters per layer.
        max_filters: maximum number of filters per layer.
        norm: one of `audiocodec.modules.norm.CONV_NORMS`.
        activation: class of `torch.nn`.
        activation_params: arguments of the activation.
        always_pad: whether to pad audio by a whole period, too, if its length is a multiple of the
            period already, as descript-audio-codec does.
        first_feature: index of the first layer whose feature map is returned.
        logits_as_feature: whether the logits are the last feature map.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        period: int,
        in_channels: int = 1,
        out_channels: int = 1,
        n_layers: int = 5,
        kernel_sizes: Sequence[int] = (5, 3),
        stride: int = 3,
        filters: int = 8,
        filters_scale: int = 4,
        max_filters: int = 1024,
        norm: str = 'weight_norm',
        activation: str = 'LeakyReLU',
        activation_params: Mapping[str, Any] | None = None,
        always_pad: bool = False,
        first_feature: int = 0,
        logits_as_feature: bool = True,
    ) -> None:
        super().__init__()
        for name, value in {
            'period': period,
            'in_channels': in_channels,
            'out_channels': out_channels,
            'n_layers': n_layers,
            'stride': stride,
            'filters': filters,
            'filters_scale': filters_scale,
            'max_filters': max_filters,
        }.items():
            require_int(name, value)
        sizes = require_ints('kernel_sizes', kernel_sizes)
        if len(sizes) != 2:
            raise ValueError(
                f'kernel_sizes={list(kernel_sizes)}: expected two sizes, of the inner layers and '
                'of the last layer'
            )
        require_first_feature(first_feature, n_layers)
        self.period = period
        self.always_pad = always_pad
        self.first_feature = first_feature
        self.logits_as_feature = logits_as_feature
        self.activation = layer_activation(
            activation, {'negative_slope': 0.2} if activation_params is None else activation_params
        )
        self.convs = nn.ModuleList()
        channels = in_channels
        for index in range(n_layers):
            wider = min(filters * filters_scale ** (index + 1), max_filters)
            self.convs.append(
                NormConv2d(
                    channels,
                    wider,
                    (sizes[0], 1),
                    padding=((sizes[0] - 1) // 2, 0),
                    norm=norm,
                    stride=(1 if index == n_layers - 1 else stride, 1),
                )
            )
            channels = wider
        self.conv_post = NormConv2d(
            channels, out_channels, (sizes[1], 1), padding=((sizes[1] - 1) // 2, 0), norm=norm
        )

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify audio, padded at its end by reflection to a multiple of the period.

        Args:
            wav: [B, in_channels, T], T greater than the padding.

        Returns:
            Logits [B, out_channels, steps, period]; feature maps of all layers, the logits last,
            unless options change that.

        Raises:
            ValueError: audio too short to be reflected.
        """
        B, C, T = wav.shape
        missing = self.period - T % self.period if self.always_pad else -T % self.period
        if missing >= T:
            raise ValueError(
                f'audio of {T} samples is too short for period={self.period}: use longer segments '
                'or smaller periods'
            )
        if missing:
            wav = F.pad(wav, (0, missing), 'reflect')
        x = wav.reshape(B, C, -1, self.period)
        features = feature_maps(x, self.convs, self.activation)
        logits = self.conv_post(features[-1])
        del features[: self.first_feature]
        return logits, [*features, logits] if self.logits_as_feature else features


class MultiPeriodDiscriminator(MultiDiscriminator):
    """Period discriminators with different periods.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        periods: periods in samples; primes overlap least.
        peak: peak to which the audio is scaled, see `MultiDiscriminator`.
        **kwargs: arguments of `PeriodDiscriminator`.

    Raises:
        ValueError: an argument out of range.
    """

    arguments_of = PeriodDiscriminator

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        peak: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            [
                PeriodDiscriminator(period, in_channels, out_channels, **kwargs)
                for period in periods
            ],
            in_channels,
            peak=peak,
        )
