"""SEANet: the convolutional encoder and decoder of EnCodec (arXiv 2009.02095, 2107.03312,
2210.13438).
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from audiocodec.modules.activation import make_activation
from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import Layers, StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.init import initialize
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.norm import check_norm


class SEANetResnetBlock(nn.Module):
    """Residual block: activation and convolution, as many times as there are kernels, around a skip
    connection.

    Args:
        dim: channels in and out.
        kernel_sizes: kernel of each convolution, in samples.
        dilations: dilation of each convolution.
        activation: class in `torch.nn`, or dotted name of any other (see `activation_class`).
        activation_params: its arguments.
        norm: one of `norm.CONV_NORMS`.
        norm_params: arguments of the normalisation.
        causal: whether outputs see no later inputs.
        pad_mode: one of `conv.PAD_MODES`.
        compress: the branch has dim // compress channels inside.
        true_skip: skip by the identity, rather than by a convolution of kernel 1.
    """

    def __init__(
        self,
        dim: int,
        kernel_sizes: Sequence[int] = (3, 1),
        dilations: Sequence[int] = (1, 1),
        activation: str = 'ELU',
        activation_params: Mapping[str, Any] | None = None,
        norm: str = 'none',
        norm_params: Mapping[str, Any] | None = None,
        causal: bool = False,
        pad_mode: str = 'reflect',
        compress: int = 2,
        true_skip: bool = True,
    ) -> None:
        super().__init__()
        require_int('compress', compress)
        if len(kernel_sizes) != len(dilations):
            raise ValueError(
                f'kernel_sizes={kernel_sizes} and dilations={dilations} must have the same length.'
            )
        if dim < compress:
            raise ValueError(
                f'compress={compress} leaves no channel in a residual block of {dim}: '
                f'lower compress, or raise n_filters.'
            )
        conv = partial(
            StreamableConv1d, norm=norm, norm_kwargs=norm_params, causal=causal, pad_mode=pad_mode
        )
        widths = [dim] + [dim // compress] * (len(kernel_sizes) - 1) + [dim]
        block: list[nn.Module] = []
        for index, (kernel_size, dilation) in enumerate(zip(kernel_sizes, dilations)):
            block.append(make_activation(activation, activation_params, widths[index]))
            block.append(
                conv(widths[index], widths[index + 1], kernel_size=kernel_size, dilation=dilation)
            )
        self.block: nn.Sequential = Layers(*block)
        self.shortcut = nn.Identity() if true_skip else conv(dim, dim, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dim, T] to [B, dim, T]."""
        return self.shortcut(x) + self.block(x)


class _SEANet(nn.Module):
    """What encoder and decoder share: their checked figures, and the making of their layers.

    A network is a first convolution, one stage per ratio, and a last convolution: `n_blocks` in
    all. They are counted by `outer` from the waveform on: 1 is the convolution that touches it,
    `n_blocks` the one that touches the latents.
    """

    def __init__(
        self,
        *,
        channels: int,
        dimension: int,
        n_filters: int,
        n_residual_layers: int,
        ratios: Sequence[int],
        activation: str,
        activation_params: Mapping[str, Any] | None,
        norm: str,
        norm_params: Mapping[str, Any] | None,
        kernel_size: int,
        last_kernel_size: int,
        residual_kernel_size: int,
        dilation_base: int,
        causal: bool,
        pad_mode: str,
        true_skip: bool,
        compress: int,
        lstm: int,
        disable_norm_outer_blocks: int,
    ) -> None:
        super().__init__()
        at_least_one = {
            'channels': channels,
            'dimension': dimension,
            'n_filters': n_filters,
            'kernel_size': kernel_size,
            'last_kernel_size': last_kernel_size,
            'residual_kernel_size': residual_kernel_size,
            'dilation_base': dilation_base,
        }
        for name, value in at_least_one.items():
            require_int(name, value)
        for name, value in {'n_residual_layers': n_residual_layers, 'lstm': lstm}.items():
            require_int(name, value, minimum=0)
        if n_residual_layers > 1 and (n_residual_layers - 1) * math.log2(dilation_base) > 20:
            raise ValueError(
                f'n_residual_layers={n_residual_layers}, dilation_base={dilation_base}: the last '
                'block '
                'would skip more than a million samples between two that it reads.'
            )
        self.ratios = require_ints('ratios', ratios)
        self.n_blocks = len(self.ratios) + 2
        if disable_norm_outer_blocks not in range(self.n_blocks + 1):
            raise ValueError(
                f'disable_norm_outer_blocks={disable_norm_outer_blocks!r}: {len(self.ratios)} '
                'ratios make '
                f'{self.n_blocks} blocks, so an integer from 0 to {self.n_blocks} is accepted.'
            )
        check_norm(norm)  # disable_norm_outer_blocks may leave it unused
        self.channels = channels
        self.dimension = dimension
        self.n_filters = n_filters
        self.n_residual_layers = n_residual_layers
        self.hop_length = math.prod(self.ratios)
        self.causal = causal
        self.disable_norm_outer_blocks = disable_norm_outer_blocks
        self._norm = (norm, norm_params)
        self._dilations = [dilation_base**index for index in range(n_residual_layers)]
        self._act = partial(make_activation, activation, activation_params)
        self._conv = partial(StreamableConv1d, causal=causal, pad_mode=pad_mode)
        self._block = partial(
            SEANetResnetBlock,
            activation=activation,
            activation_params=activation_params,
            causal=causal,
            pad_mode=pad_mode,
            compress=compress,
            true_skip=true_skip,
        )
        self._residual_kernel_size = residual_kernel_size

    def _norm_kwargs(self, outer: int) -> dict[str, Any]:
        """Arguments of a convolution that say how it is normalised in the block `outer`."""
        norm, norm_kwargs = (
            ('none', None) if outer <= self.disable_norm_outer_blocks else self._norm
        )
        return {'norm': norm, 'norm_kwargs': norm_kwargs}

    def _residual_blocks(self, width: int, outer: int) -> list[nn.Module]:
        """The residual blocks of one stage, with growing dilation."""
        norm = self._norm_kwargs(outer)
        return [
            self._block(
                width,
                kernel_sizes=(self._residual_kernel_size, 1),
                dilations=(dilation, 1),
                norm=norm['norm'],
                norm_params=norm['norm_kwargs'],
            )
            for dilation in self._dilations
        ]


class SEANetEncoder(_SEANet):
    """Encoder: waveform to latents, one frame per `hop_length` samples, `hop_length` being the
    product of the ratios.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents.
        n_filters: channels after the first convolution; they double at every stage.
        n_residual_layers: residual blocks per stage.
        ratios: strides in the order of the *decoder*: the encoder goes through them from the last
            to the first.
        activation: class in `torch.nn`, or dotted name of any other (see `activation_class`).
        activation_params: its arguments.
        norm: one of `norm.CONV_NORMS`.
        norm_params: arguments of the normalisation (time_group_norm).
        kernel_size: kernel of the first convolution, in samples.
        last_kernel_size: kernel of the last convolution, in frames.
        residual_kernel_size: kernel of the residual blocks.
        dilation_base: the j-th residual block of a stage is dilated by dilation_base ** j.
        causal: whether frame t sees only samples before (t + 1) * hop_length. Strictly so with pad
            modes `constant` and `replicate`; the others repeat samples of the future in the padding
            before the first sample.
        pad_mode: one of `conv.PAD_MODES`.
        true_skip: residual blocks skip by the identity, rather than by a convolution of kernel 1.
        compress: residual blocks have their channels divided by this inside.
        lstm: LSTM layers before the last convolution, 0 for none.
        disable_norm_outer_blocks: normalisation is left out of this many blocks from the waveform
            on, where the blocks are the first convolution, every stage, and the last convolution.
        init: initial weights, one of `init.INITS`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        dimension: int = 128,
        n_filters: int = 32,
        n_residual_layers: int = 3,
        ratios: Sequence[int] = (8, 5, 4, 2),
        activation: str = 'ELU',
        activation_params: Mapping[str, Any] | None = None,
        norm: str = 'none',
        norm_params: Mapping[str, Any] | None = None,
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        causal: bool = False,
        pad_mode: str = 'reflect',
        true_skip: bool = True,
        compress: int = 2,
        lstm: int = 0,
        disable_norm_outer_blocks: int = 0,
        init: str = 'default',
    ) -> None:
        super().__init__(
            channels=channels,
            dimension=dimension,
            n_filters=n_filters,
            n_residual_layers=n_residual_layers,
            ratios=ratios,
            activation=activation,
            activation_params=activation_params,
            norm=norm,
            norm_params=norm_params,
            kernel_size=kernel_size,
            last_kernel_size=last_kernel_size,
            residual_kernel_size=residual_kernel_size,
            dilation_base=dilation_base,
            causal=causal,
            pad_mode=pad_mode,
            true_skip=true_skip,
            compress=compress,
            lstm=lstm,
            disable_norm_outer_blocks=disable_norm_outer_blocks,
        )
        width = n_filters
        layers: list[nn.Module] = [self._conv(channels, width, kernel_size, **self._norm_kwargs(1))]
        for outer, ratio in enumerate(reversed(self.ratios), start=2):
            layers += self._residual_blocks(width, outer)
            kwargs = self._norm_kwargs(outer)
            layers += [
                self._act(width),
                self._conv(width, 2 * width, 2 * ratio, stride=ratio, **kwargs),
            ]
            width *= 2
        if lstm:
            layers.append(StreamableLSTM(width, num_layers=lstm))
        layers += [
            self._act(width),
            self._conv(width, dimension, last_kernel_size, **self._norm_kwargs(self.n_blocks)),
        ]
        self.model: nn.Sequential = Layers(*layers)
        initialize(self.model, init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the waveform [B, channels, T] to latents [B, dimension, ceil(T / hop_length)]."""
        return self.model(x)


class SEANetDecoder(_SEANet):
    """Decoder: latents to waveform, `hop_length` samples per frame; the mirror of `SEANetEncoder`.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents.
        n_filters: channels before the last convolution; they halve at every stage.
        n_residual_layers: residual blocks per stage.
        ratios: strides, from the latents to the waveform.
        activation: class in `torch.nn`, or dotted name of any other (see `activation_class`).
        activation_params: its arguments.
        final_activation: of the waveform, such as Tanh; None for none.
        final_activation_params: its arguments.
        norm: one of `norm.CONV_NORMS`.
        norm_params: arguments of the normalisation (time_group_norm).
        kernel_size: kernel of the first convolution, in frames.
        last_kernel_size: kernel of the last convolution, in samples.
        residual_kernel_size: kernel of the residual blocks.
        dilation_base: the j-th residual block of a stage is dilated by dilation_base ** j.
        causal: whether sample t sees only frames up to t // hop_length (see `SEANetEncoder`, and
            trim_right_ratio).
        pad_mode: one of `conv.PAD_MODES`.
        true_skip: residual blocks skip by the identity, rather than by a convolution of kernel 1.
        compress: residual blocks have their channels divided by this inside.
        lstm: LSTM layers after the first convolution, 0 for none.
        disable_norm_outer_blocks: normalisation is left out of this many blocks from the waveform
            on, where the blocks are the last convolution, every stage, and the first convolution.
        trim_right_ratio: share of the trimming of transposed convolutions done on the right, if
            causal: below 1, the decoder looks ahead.
        init: initial weights, one of `init.INITS`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        dimension: int = 128,
        n_filters: int = 32,
        n_residual_layers: int = 3,
        ratios: Sequence[int] = (8, 5, 4, 2),
        activation: str = 'ELU',
        activation_params: Mapping[str, Any] | None = None,
        final_activation: str | None = None,
        final_activation_params: Mapping[str, Any] | None = None,
        norm: str = 'none',
        norm_params: Mapping[str, Any] | None = None,
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        causal: bool = False,
        pad_mode: str = 'reflect',
        true_skip: bool = True,
        compress: int = 2,
        lstm: int = 0,
        disable_norm_outer_blocks: int = 0,
        trim_right_ratio: float = 1.0,
        init: str = 'default',
    ) -> None:
        super().__init__(
            channels=channels,
            dimension=dimension,
            n_filters=n_filters,
            n_residual_layers=n_residual_layers,
            ratios=ratios,
            activation=activation,
            activation_params=activation_params,
            norm=norm,
            norm_params=norm_params,
            kernel_size=kernel_size,
            last_kernel_size=last_kernel_size,
            residual_kernel_size=residual_kernel_size,
            dilation_base=dilation_base,
            causal=causal,
            pad_mode=pad_mode,
            true_skip=true_skip,
            compress=compress,
            lstm=lstm,
            disable_norm_outer_blocks=disable_norm_outer_blocks,
        )
        transposed = partial(
            StreamableConvTranspose1d, causal=causal, trim_right_ratio=trim_right_ratio
        )
        width = n_filters * 2 ** len(self.ratios)
        layers: list[nn.Module] = [
            self._conv(dimension, width, kernel_size, **self._norm_kwargs(self.n_blocks))
        ]
        if lstm:
            layers.append(StreamableLSTM(width, num_layers=lstm))
        for index, ratio in enumerate(self.ratios):
            outer = self.n_blocks - 1 - index
            kwargs = self._norm_kwargs(outer)
            layers += [
                self._act(width),
                transposed(width, width // 2, 2 * ratio, stride=ratio, **kwargs),
            ]
            width //= 2
            layers += self._residual_blocks(width, outer)
        layers += [
            self._act(width),
            self._conv(width, channels, last_kernel_size, **self._norm_kwargs(1)),
        ]
        if final_activation is not None:
            layers.append(make_activation(final_activation, final_activation_params, channels))
        self.model: nn.Sequential = Layers(*layers)
        initialize(self.model, init)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map latents [B, dimension, T] to the waveform [B, channels, T * hop_length]."""
        return self.model(z)
