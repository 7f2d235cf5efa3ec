"""Discriminators of the bands of complex STFTs.

See DAC (arXiv 2306.06546, section 3.4) and Vocos (arXiv 2306.00814, section 3.3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.adversarial.discriminators.base import (
    MultiDiscriminator,
    layer_activation,
    require_first_feature,
)
from audiocodec.adversarial.discriminators.spectral import (
    SpectralDiscriminator,
    pair,
    same_padding,
)
from audiocodec.modules.checks import require_int
from audiocodec.modules.conv import NormConv2d

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


class BandSTFTDiscriminator(SpectralDiscriminator):
    """2-D convolutions over each band of a complex STFT, and one over all bands together.

    Real and imaginary parts are channels.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        n_fft: FFT size and length of the Hann window in samples; a multiple of 4. The frames are a
            quarter of it apart.
        bands: lowest and highest frequency of each band, as fractions of the number of bins.
        filters: filters of each convolution.
        n_layers: number of strided convolutions per band, between the first and the last.
        kernel_size: kernel size of these and of the first convolution, (time, frequency). That of
            the last convolutions is square, with the size in time.
        stride: stride of the strided convolutions, (time, frequency).
        padding: see `SpectralDiscriminator`.
        norm: one of `audiocodec.modules.norm.CONV_NORMS`.
        activation: class of `torch.nn`.
        activation_params: arguments of the activation.
        first_feature: index of the first layer of each band whose feature map is returned.
        logits_as_feature: whether the logits are the last feature map.
        channels_last: whether to convolve in the channels-last memory format, see
            `STFTDiscriminator`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        n_fft: int = 2048,
        bands: Sequence[Sequence[float]] = BANDS,
        filters: int = 32,
        n_layers: int = 3,
        kernel_size: Sequence[int] = (3, 9),
        stride: Sequence[int] = (1, 2),
        padding: str = 'same',
        norm: str = 'weight_norm',
        activation: str = 'LeakyReLU',
        activation_params: Mapping[str, Any] | None = None,
        first_feature: int = 0,
        logits_as_feature: bool = False,
        channels_last: bool = True,
    ) -> None:
        for name, value in {
            'in_channels': in_channels,
            'out_channels': out_channels,
            'n_fft': n_fft,
            'filters': filters,
            'n_layers': n_layers,
        }.items():
            require_int(name, value)
        if n_fft % 4:
            raise ValueError(f'n_fft={n_fft}: expected a multiple of 4, the frames per window')
        require_first_feature(first_feature, n_layers + 2)
        super().__init__(n_fft, n_fft // 4, n_fft, False, padding, channels_last)
        self.edges = _band_edges(bands, n_fft // 2 + 1)
        self.first_feature = first_feature
        self.logits_as_feature = logits_as_feature
        self.activation = layer_activation(
            activation, {'negative_slope': 0.1} if activation_params is None else activation_params
        )
        kernel = pair('kernel_size', kernel_size)
        square = (kernel[0], kernel[0])

        def layers() -> nn.ModuleList:
            strides = [(1, 1), *[pair('stride', stride)] * n_layers, (1, 1)]
            sizes = [*[kernel] * (n_layers + 1), square]
            channels = [2 * in_channels, *[filters] * (n_layers + 1)]
            return nn.ModuleList(
                NormConv2d(wide, filters, size, stride=step, padding=same_padding(size), norm=norm)
                for wide, size, step in zip(channels, sizes, strides)
            )

        self.band_convs = nn.ModuleList(layers() for _ in self.edges)
        self.conv_post = NormConv2d(
            filters, out_channels, square, padding=same_padding(square), norm=norm
        )

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify audio as real or fake.

        Args:
            wav: [B, in_channels, T].

        Returns:
            Logits [B, out_channels, frames, steps], the steps of all bands one after another;
            feature maps [B, filters, frames, steps] of the layers of the first band, then those of
            the second, and so on.

        Raises:
            ValueError: audio too short for a frame, see `SpectralDiscriminator`.
        """
        spectrum = self.spectrum(wav)
        # A part of an image is in neither memory format, and convolutions would take it as the
        # default one.
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        features = []
        outputs = []
        for (low, high), convs in zip(self.edges, self.band_convs):
            x = spectrum[..., low:high].contiguous(memory_format=layout)
            for index, conv in enumerate(convs.children()):
                x = self.activation(conv(x))
                if index >= self.first_feature:
                    features.append(x)
            outputs.append(x)
        logits = self.conv_post(torch.cat(outputs, dim=-1))
        return logits, [*features, logits] if self.logits_as_feature else features


class MultiBandSTFTDiscriminator(MultiDiscriminator):
    """Discriminators of the bands of STFTs at several resolutions, as in DAC.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        n_ffts: FFT size of each resolution, in samples.
        peak: peak to which the audio is scaled, see `MultiDiscriminator`.
        **kwargs: arguments of `BandSTFTDiscriminator`.

    Raises:
        ValueError: an argument out of range.
    """

    arguments_of = BandSTFTDiscriminator

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        n_ffts: Sequence[int] = (2048, 1024, 512),
        peak: float | None = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            [
                BandSTFTDiscriminator(in_channels, out_channels, n_fft=n_fft, **kwargs)
                for n_fft in n_ffts
            ],
            in_channels,
            peak=peak,
        )


class MultiResolutionSTFTDiscriminator(MultiBandSTFTDiscriminator):
    """Discriminators of the bands of STFTs at several resolutions, as in Vocos.

    They differ from DAC's by the frames, which are centered, and by the feature maps: those of the
    first layers are missing, and the logits are one.

    Args:
        in_channels: channels of the audio.
        out_channels: channels of the logits.
        n_ffts: FFT size of each resolution, in samples.
        peak: peak to which the audio is scaled, see `MultiDiscriminator`.
        padding: see `SpectralDiscriminator`.
        first_feature: see `BandSTFTDiscriminator`.
        logits_as_feature: see `BandSTFTDiscriminator`.
        **kwargs: other arguments of `BandSTFTDiscriminator`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        n_ffts: Sequence[int] = (2048, 1024, 512),
        peak: float | None = 0.8,
        padding: str = 'center',
        first_feature: int = 1,
        logits_as_feature: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            n_ffts,
            peak,
            padding=padding,
            first_feature=first_feature,
            logits_as_feature=logits_as_feature,
            **kwargs,
        )


def _band_edges(bands: Sequence[Sequence[float]], bins: int) -> list[tuple[int, int]]:
    """Return the first bin of each band, and the first one above it.

    Raises:
        ValueError: a band that is not a pair of increasing fractions, or has no bin.
    """
    if not bands or any(len(band) != 2 or not 0 <= band[0] < band[1] <= 1 for band in bands):
        raise ValueError(
            f'bands={[list(band) for band in bands]}: expected pairs of increasing numbers from 0 '
            'to 1, the fractions of the bins'
        )
    edges = [(int(low * bins), int(high * bins)) for low, high in bands]
    for band, (low, high) in zip(bands, edges):
        if low == high:
            raise ValueError(
                f'bands: {list(band)} contains no bin of n_fft={2 * (bins - 1)}: use wider bands '
                'or larger n_ffts'
            )
    return edges
