"""Encoder and decoder of SNAC (arXiv 2410.14411): DAC's, with depthwise convolutions and noise."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.init import initialize
from audiocodec.modules.reach import Reach, reads
from audiocodec.modules.snake import Snake
from audiocodec.utils import distrib

# Identifiers of the random streams, see `distrib.shared_generator`.
_DRAW_TABLE = 0x534E4101
_DRAW_OFFSETS = 0x534E4102

HEAD_DIM = 64  # channels of an attention head
NOISE_PERIOD = 2**16  # samples after which the noise of a block repeats
_DILATIONS = (1, 3, 9)  # of the residual units of a stage
_ROTARY_BASE = 10000

# Zeros at the borders, as in the released models.
_conv = partial(StreamableConv1d, norm='weight_norm', pad_mode='constant')


class ResidualUnit(nn.Module):
    """A dilated convolution of size 7 and one of size 1 after Snakes, with a skip connection.

    Args:
        channels: input and output channels.
        dilation: of the first convolution.
        depthwise: whether the first convolution has one filter per channel.
    """

    def __init__(self, channels: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        groups = channels if depthwise else 1
        self.block = nn.Sequential(
            Snake(channels),
            _conv(channels, channels, 7, dilation=dilation, groups=groups),
            Snake(channels),
            _conv(channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels, T] to the same shape."""
        return x + self.block(x)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the block reads, which includes the outputs' own inputs; see `reach`."""
        return reads(self.block, first, last, recurrence)


class NoiseBlock(nn.Module):
    """Adds white noise, equal in all channels, with a gain computed from the signal.

    The noise comes from a table of `NOISE_PERIOD` samples drawn at construction. In eval mode every
    item starts at its beginning: results are reproducible, and depend on no other item. In
    training, every item starts at a random offset; the offsets depend on `seed` and on a counter
    that is part of the state, and N workers with batches of B draw those of one with N x B.
    (The `snac` package draws new noise whenever it decodes.)

    Args:
        channels: input and output channels.
        seed: seed of the noise.
        index: number of the block in its decoder: each has other noise.

    Buffers:
        table: [NOISE_PERIOD], the noise; not in the state dict.
        draws: int64, number of batches in training.
    """

    table: torch.Tensor
    draws: torch.Tensor

    def __init__(self, channels: int, seed: int = 0, index: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.index = index
        self.linear = _conv(channels, channels, 1, bias=False)
        generator = distrib.shared_generator(seed, _DRAW_TABLE, index)
        table = torch.randn(NOISE_PERIOD, generator=generator)
        self.register_buffer('table', table, persistent=False)
        self.register_buffer('draws', torch.zeros((), dtype=torch.int64))
        # Copy of `draws` on the host: reading the buffer would synchronize with the device. None:
        # not known, read the buffer.
        self._draws: int | None = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels, T] to the same shape."""
        positions = torch.arange(x.shape[-1], device=x.device)
        if self.training:
            positions = positions + self._offsets(len(x), x.device)
        noise = self.table[positions % NOISE_PERIOD].to(x.dtype)
        return x + noise * self.linear(x)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the outputs' own inputs; see `reach`."""
        return Reach(first, last)

    def _offsets(self, batch: int, device: torch.device) -> torch.Tensor:
        """Draw the offset of each item, [B, 1, 1], and count the batch."""
        if self._draws is None:
            self._draws = int(self.draws)
        generator = distrib.shared_generator(self.seed, _DRAW_OFFSETS, self.index, self._draws)
        self._draws += 1
        self.draws += 1
        number = batch * distrib.world_size()
        offsets = torch.randint(NOISE_PERIOD, (number,), generator=generator)
        own = offsets[batch * distrib.rank() :][:batch, None, None]
        if device.type == 'cuda':
            own = own.pin_memory()
        return own.to(device, non_blocking=True)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._draws = None


class LocalAttention(nn.Module):
    """Self-attention within windows of frames that do not overlap, with a skip connection.

    A layer norm precedes it. Positions in the window are encoded by rotation (RoFormer, arXiv
    2104.09864). The last window may be shorter.

    Args:
        channels: input and output channels, a multiple of `HEAD_DIM`.
        window: frames of a window.

    Raises:
        ValueError: an argument out of range.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        require_int('attention_window', window)
        if channels % HEAD_DIM:
            raise ValueError(
                f'attention_window={window}: attention needs a multiple of {HEAD_DIM} channels at '
                f'the latents, got {channels} (n_filters doubled by each ratio)'
            )
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        angles = torch.outer(torch.arange(window).float(), inverse_frequencies()).repeat(1, 2)
        self.register_buffer('cos', angles.cos(), persistent=False)
        self.register_buffer('sin', angles.sin(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels, T] to the same shape."""
        frames = x.shape[-1]
        missing = -frames % self.window
        y = F.pad(self.norm(x.transpose(1, 2)), (0, 0, 0, missing))
        query, key, value = rearrange(
            self.to_qkv(y),
            'b (w n) (three h d) -> three b w h n d',
            three=3,
            n=self.window,
            d=HEAD_DIM,
        )
        mask = None
        if missing:  # no frame attends to the padding
            real = torch.arange(frames + missing, device=x.device) < frames
            mask = rearrange(real, '(w n) -> 1 w 1 1 n', n=self.window)
        y = F.scaled_dot_product_attention(
            self._rotate(query), self._rotate(key), value, attn_mask=mask
        )
        y = self.to_out(rearrange(y, 'b w h n d -> b (w n) (h d)'))
        return x + y[:, :frames].transpose(1, 2)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the windows of the outputs; see `reach`."""
        return Reach(
            first // self.window * self.window, last // self.window * self.window + self.window - 1
        )

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate each pair of channels of [..., window, HEAD_DIM] by the angle of its frame."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return x * cos + torch.cat((-second, first), dim=-1) * sin


def inverse_frequencies() -> torch.Tensor:
    """Return the angles per frame, [HEAD_DIM // 2], of the pairs of channels in a head."""
    return 1 / _ROTARY_BASE ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)


class _SNAC(nn.Module):
    """Base class of encoder and decoder: checks arguments.

    Attributes:
        initialization_options: constructor arguments without effect on a trained model.
    """

    initialization_options: ClassVar[frozenset[str]] = frozenset(('init',))
    causal = False
    model: nn.Sequential

    def __init__(
        self, channels: int, dimension: int, n_filters: int, ratios: Sequence[int]
    ) -> None:
        super().__init__()
        sizes = {'channels': channels, 'dimension': dimension, 'n_filters': n_filters}
        for name, value in sizes.items():
            require_int(name, value)
        self.ratios = require_ints('ratios', ratios)
        self.channels = channels
        self.dimension = dimension
        self.n_filters = n_filters
        self.hop_length = math.prod(self.ratios)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the layers read; see `reach`."""
        return reads(self.model, first, last, recurrence)


class SNACEncoder(_SNAC):
    """Encoder from waveform to latents; not causal.

    One frame spans `hop_length` samples, the product of the ratios. Zeros are appended to the
    waveform until the number of frames is a multiple of `frame_multiple`. For the codes of the
    `snac` package, it must be the least common multiple of the quantizer's largest stride and
    `attention_window`.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents; if depthwise, those of the last stage, n_filters *
            2 ** len(ratios).
        n_filters: channels after the first convolution; they double at every stage.
        ratios: strides in the order of the *decoder*: the encoder applies them in reverse.
        depthwise: whether the convolutions of size 7 after the first have one filter per channel.
        attention_window: frames of the windows of local attention before the last convolution;
            None: no attention.
        frame_multiple: divisor of the number of frames.
        init: weight initialization of convolutions, one of `init.INITS`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        dimension: int = 768,
        n_filters: int = 48,
        ratios: Sequence[int] = (8, 8, 4, 2),
        depthwise: bool = True,
        attention_window: int | None = None,
        frame_multiple: int = 1,
        init: str = 'default',
    ) -> None:
        super().__init__(channels, dimension, n_filters, ratios)
        require_int('frame_multiple', frame_multiple)
        self.frame_multiple = frame_multiple
        layers: list[nn.Module] = [_conv(channels, n_filters, 7)]
        width = n_filters
        for ratio in reversed(self.ratios):
            layers.append(
                nn.Sequential(
                    *(ResidualUnit(width, dilation, depthwise) for dilation in _DILATIONS),
                    Snake(width),
                    _conv(width, 2 * width, 2 * ratio, stride=ratio),
                )
            )
            width *= 2
        if depthwise and dimension != width:
            raise ValueError(
                f'dimension={dimension}: a depthwise encoder with n_filters={n_filters} and '
                f'{len(self.ratios)} ratios has {width} channels at the latents'
            )
        if attention_window is not None:
            layers.append(LocalAttention(width, attention_window))
        layers.append(_conv(width, dimension, 7, groups=width if depthwise else 1))
        self.model = nn.Sequential(*layers)
        initialize(self.model, init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the waveform [B, channels, T] to latents [B, dimension, T_frames].

        T_frames is ceil(T / hop_length), rounded up to a multiple of `frame_multiple`.
        """
        length, unit = x.shape[-1], self.hop_length * self.frame_multiple
        whole = (length + unit - 1) // unit * unit  # a form that can be traced for any length
        return self.model(F.pad(x, (0, whole - length)))


class SNACDecoder(_SNAC):
    """Decoder from latents to waveform, in [-1, 1]; not causal.

    Args:
        channels: channels of the waveform.
        dimension: channels of the latents.
        n_filters: channels before the last convolution; they halve at every stage.
        ratios: strides, from the latents to the waveform.
        noise: whether each stage adds noise, see `NoiseBlock`.
        depthwise: whether the convolutions of size 7, except the last, have one filter per channel.
        attention_window: frames of the windows of local attention after the first convolution;
            None: no attention.
        seed: seed of the noise.
        init: weight initialization of convolutions, one of `init.INITS`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        dimension: int = 768,
        n_filters: int = 64,
        ratios: Sequence[int] = (8, 8, 4, 2),
        noise: bool = True,
        depthwise: bool = True,
        attention_window: int | None = None,
        seed: int = 0,
        init: str = 'default',
    ) -> None:
        super().__init__(channels, dimension, n_filters, ratios)
        width = n_filters * 2 ** len(self.ratios)
        layers: list[nn.Module] = [_conv(dimension, width, 7)]
        if depthwise:
            layers = [_conv(dimension, dimension, 7, groups=dimension), _conv(dimension, width, 1)]
        if attention_window is not None:
            layers.append(LocalAttention(width, attention_window))
        for index, ratio in enumerate(self.ratios):
            stage = [Snake(width), _transposed(width, ratio)]
            width //= 2
            if noise:
                stage.append(NoiseBlock(width, seed, index))
            stage += [ResidualUnit(width, dilation, depthwise) for dilation in _DILATIONS]
            layers.append(nn.Sequential(*stage))
        layers += [Snake(width), _conv(width, channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        initialize(self.model, init)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map latents [B, dimension, T] to the waveform [B, channels, T * hop_length]."""
        return self.model(z)


def _transposed(width: int, ratio: int) -> nn.Module:
    """Create the convolution that increases the rate by `ratio` and halves the channels."""
    return StreamableConvTranspose1d(width, width // 2, 2 * ratio, stride=ratio, norm='weight_norm')
