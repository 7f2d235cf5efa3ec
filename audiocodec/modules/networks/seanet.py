"""SEANet, the convolutional encoder and decoder of EnCodec.

See arXiv 2009.02095, 2107.03312 and 2210.13438.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.activation import make_activation, with_defaults
from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import Layers, StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.init import initialize
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.norm import check_norm
from audiocodec.modules.reach import Reach, reads


class SEANetResnetBlock(nn.Module):
    """Residual block: an activation and a convolution per kernel size, with a skip connection.

    Args:
        dim: input and output channels.
        kernel_sizes: kernel size of each convolution.
        dilations: dilation of each convolution.
        activation: class of `torch.nn`, or dotted name of another class (see `activation_class`).
        activation_params: arguments of the activation.
        norm: one of `norm.CONV_NORMS`.
        norm_params: arguments of the normalization.
        causal: whether outputs depend on no later inputs.
        pad_mode: one of `conv.PAD_MODES`.
        compress: the inner convolutions have dim // compress channels.
        true_skip: whether the skip connection is the identity rather than a convolution of kernel
            size 1.
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
                f'kernel_sizes={kernel_sizes} and dilations={dilations} must have the same length'
            )
        if dim < compress:
            raise ValueError(
                f'compress={compress} leaves no channel in a residual block of {dim}: '
                'lower compress or raise n_filters'
            )
        conv = partial(
            StreamableConv1d, norm=norm, norm_kwargs=norm_params, causal=causal, pad_mode=pad_mode
        )
        # Only the inner convolutions are compressed: the block must keep its channels.
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

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what shortcut and block read together; see `reach`."""
        shortcut = reads(self.shortcut, first, last, recurrence)
        block = reads(self.block, first, last, recurrence)
        return Reach(min(shortcut.first, block.first), max(shortcut.last, block.last))


class _SEANet(nn.Module):
    """Base class of encoder and decoder: checks arguments and creates layers.

    A network has `n_blocks` blocks: a first convolution, one stage per ratio, and a last
    convolution. The index `outer` counts them from the waveform: block 1 is the convolution at the
    waveform, block `n_blocks` the one at the latents.

    Attributes:
        initialization_options: constructor arguments without effect on a trained model.
    """

    initialization_options: ClassVar[frozenset[str]] = frozenset(('init',))
    model: nn.Sequential

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
        # Compared by logarithms, because the power itself could be huge.
        if n_residual_layers > 1 and (n_residual_layers - 1) * math.log2(dilation_base) > 20:
            raise ValueError(
                f'n_residual_layers={n_residual_layers}, dilation_base={dilation_base}: the last '
                'residual block would have a dilation of more than a million samples'
            )
        self.ratios = require_ints('ratios', ratios)
        self.n_blocks = len(self.ratios) + 2
        if disable_norm_outer_blocks not in range(self.n_blocks + 1):
            raise ValueError(
                f'disable_norm_outer_blocks={disable_norm_outer_blocks!r}: expected an integer '
                f'from 0 to {self.n_blocks}, the number of blocks with {len(self.ratios)} ratios'
            )
        # Checked here because disable_norm_outer_blocks may leave it unused.
        check_norm(norm)
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

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the layers read; see `reach`."""
        return reads(self.model, first, last, recurrence)

    @staticmethod
    def spelled_out_options(options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the defaults of activations and norm filled in."""
        found = dict(options)
        for name in ('activation', 'final_activation'):
            params = f'{name}_params'
            if params in options:
                found[params] = with_defaults(options.get(name), options[params])
        # the defaults of `torch.nn.GroupNorm`
        found['norm_params'] = {'eps': 1e-5, 'affine': True, **(options['norm_params'] or {})}
        return found

    @staticmethod
    def unused_options(options: Mapping[str, Any]) -> set[str]:
        """Return the constructor's arguments that have no effect, given the others."""
        used_if = {
            'norm_params': options['norm'] == 'time_group_norm',
            'trim_right_ratio': options['causal'],
            'final_activation_params': options.get('final_activation') is not None,
        }
        return {name for name, used in used_if.items() if not used}

    def _norm_kwargs(self, outer: int) -> dict[str, Any]:
        """Return the normalization arguments of a convolution in the block `outer`."""
        if outer <= self.disable_norm_outer_blocks:
            return {'norm': 'none', 'norm_kwargs': None}
        norm, norm_kwargs = self._norm
        return {'norm': norm, 'norm_kwargs': norm_kwargs}

    def _residual_blocks(self, width: int, outer: int) -> list[nn.Module]:
        """Create the residual blocks of one stage, with increasing dilation."""
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
    """Encoder from waveform to latents.

    One frame spans `hop_length` samples, the product of the ratios.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents.
        n_filters: channels after the first convolution; they double at every stage.
        n_residual_layers: residual blocks per stage.
        ratios: strides in the order of the *decoder*: the encoder applies them in reverse.
        activation: class of `torch.nn`, or dotted name of another class (see `activation_class`).
        activation_params: arguments of the activation.
        norm: one of `norm.CONV_NORMS`.
        norm_params: arguments of the normalization (time_group_norm).
        kernel_size: kernel size of the first convolution, in samples.
        last_kernel_size: kernel size of the last convolution, in frames.
        residual_kernel_size: kernel size of the residual blocks.
        dilation_base: the j-th residual block of a stage has the dilation dilation_base ** j.
        causal: whether frame t depends only on samples before (t + 1) * hop_length. Strictly so
            with pad modes `constant` and `replicate`; the others repeat future samples in the
            padding before the first sample.
        pad_mode: one of `conv.PAD_MODES`.
        true_skip: whether the skip connection of residual blocks is the identity rather than a
            convolution of kernel size 1.
        compress: factor by which residual blocks reduce their inner channels.
        lstm: LSTM layers before the last convolution, 0 for none.
        disable_norm_outer_blocks: number of blocks without normalization, counted from the
            waveform. The blocks are the first convolution, each stage, and the last convolution.
        init: weight initialization, one of `init.INITS`.
        pad_input: pad the waveform with zeros to whole frames first, as DAC does; otherwise each
            convolution pads its own input. No difference for whole frames.

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
        pad_input: bool = False,
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
        if dimension == 1 and self._norm_kwargs(self.n_blocks)['norm'] == 'time_group_norm':
            raise ValueError(
                "dimension=1: expected at least 2 with norm='time_group_norm', since a single "
                "frame has no variance; or use norm='weight_norm'"
            )
        self.pad_input = pad_input
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
        self.model = Layers(*layers)
        initialize(self.model, init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the waveform [B, channels, T] to latents [B, dimension, ceil(T / hop_length)]."""
        missing = -x.shape[-1] % self.hop_length
        if self.pad_input and missing:
            x = F.pad(x, (0, missing))
        return self.model(x)


class SEANetDecoder(_SEANet):
    """Decoder from latents to waveform, the mirror image of `SEANetEncoder`.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents.
        n_filters: channels before the last convolution; they halve at every stage.
        n_residual_layers: residual blocks per stage.
        ratios: strides, from the latents to the waveform.
        activation: class of `torch.nn`, or dotted name of another class (see `activation_class`).
        activation_params: arguments of the activation.
        final_activation: activation of the waveform, such as Tanh; None for none.
        final_activation_params: arguments of the final activation.
        norm: one of `norm.CONV_NORMS`.
        norm_params: arguments of the normalization (time_group_norm).
        kernel_size: kernel size of the first convolution, in frames.
        last_kernel_size: kernel size of the last convolution, in samples.
        residual_kernel_size: kernel size of the residual blocks.
        dilation_base: the j-th residual block of a stage has the dilation dilation_base ** j.
        causal: whether sample t depends only on frames up to t // hop_length (see `SEANetEncoder`
            and `trim_right_ratio`).
        pad_mode: one of `conv.PAD_MODES`.
        true_skip: whether the skip connection of residual blocks is the identity rather than a
            convolution of kernel size 1.
        compress: factor by which residual blocks reduce their inner channels.
        lstm: LSTM layers after the first convolution, 0 for none.
        disable_norm_outer_blocks: number of blocks without normalization, counted from the
            waveform. The blocks are the last convolution, each stage, and the first convolution.
        trim_right_ratio: fraction of the trimming of transposed convolutions done on the right;
            causal only. Below 1, the decoder has a lookahead.
        init: weight initialization, one of `init.INITS`.
        trim_odd: transposed convolutions with an odd stride return one sample less, as in DAC. The
            waveform ends in zeros instead. Not causal only.

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
        trim_odd: bool = False,
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
            StreamableConvTranspose1d,
            causal=causal,
            trim_right_ratio=trim_right_ratio,
            trim_odd=trim_odd,
        )
        self.trim_odd = trim_odd
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
        self.model = Layers(*layers)
        initialize(self.model, init)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map latents [B, dimension, T] to the waveform [B, channels, T * hop_length]."""
        wav = self.model(z)
        missing = z.shape[-1] * self.hop_length - wav.shape[-1]
        return F.pad(wav, (0, missing)) if missing else wav
