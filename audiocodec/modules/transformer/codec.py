"""Encoder and decoder with a transformer next to the latents, as in Mimi (arXiv 2410.00037)."""

from typing import Any

import torch
from torch import nn

from audiocodec.modules.checks import require_int
from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.reach import Reach, reads


class TransformerEncoder(nn.Module):
    """Encoder, then a transformer, then a convolution that lowers the frame rate.

    Args:
        encoder: maps [B, channels, T] to [B, dimension, ceil(T / hop_length)], with the integer
            attributes `channels`, `dimension` and `hop_length`, and `causal` if it is causal; such
            as a `SEANetEncoder`.
        transformer: maps [B, dimension, T] to the same shape, such as a `Transformer`; causal if
            its attribute `causal` is true.
        stride: factor by which the convolution lowers the frame rate; 1: no convolution.
        dimension: channels of the latents, for a check; None: those of `encoder`.
        pad_mode: padding of the convolution, one of `conv.PAD_MODES`.

    Attributes:
        channels: channels of the waveform.
        dimension: channels of the latents.
        hop_length: samples per frame.
        causal: True if frames depend on no later samples.

    Raises:
        ValueError: an argument out of range, or parts that do not fit together.
    """

    def __init__(
        self,
        encoder: nn.Module,
        transformer: nn.Module,
        stride: int = 2,
        dimension: int | None = None,
        pad_mode: str = 'replicate',
    ) -> None:
        super().__init__()
        self.dimension = _common_dimension('encoder', encoder, transformer, dimension)
        require_int('stride', stride)
        self.channels: int = _integer(encoder, 'encoder', 'channels')
        self.hop_length = _integer(encoder, 'encoder', 'hop_length') * stride
        self.causal = _is_causal(encoder) and _is_causal(transformer)
        self.stride = stride
        self.encoder = encoder
        self.transformer = transformer
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = StreamableConv1d(
                self.dimension,
                self.dimension,
                kernel_size=2 * stride,
                stride=stride,
                bias=False,
                causal=self.causal,
                pad_mode=pad_mode,
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the waveform [B, channels, T] to latents [B, dimension, ceil(T / hop_length)]."""
        return self.downsample(self.transformer(self.encoder(x)))

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the parts read one after the other; see `reach`."""
        for part in (self.downsample, self.transformer, self.encoder):
            first, last = reads(part, first, last, recurrence)
        return Reach(first, last)


class TransformerDecoder(nn.Module):
    """Transposed convolution that raises the frame rate, then a transformer, then a decoder.

    Args:
        decoder: maps [B, dimension, T] to [B, channels, T * hop_length], with the attributes of
            `TransformerEncoder`; such as a `SEANetDecoder`.
        transformer: see `TransformerEncoder`.
        stride: factor by which the convolution raises the frame rate; 1: no convolution.
        dimension: channels of the latents, for a check; None: those of `decoder`.
        upsample_groups: groups of the convolution; None: one per channel.
        trim_right_ratio: see `StreamableConvTranspose1d`; below 1, the convolution has a lookahead.

    Attributes:
        channels: channels of the waveform.
        dimension: channels of the latents.
        hop_length: samples per frame.
        causal: True if samples depend on no later frames.

    Raises:
        ValueError: an argument out of range, or parts that do not fit together.
    """

    def __init__(
        self,
        decoder: nn.Module,
        transformer: nn.Module,
        stride: int = 2,
        dimension: int | None = None,
        upsample_groups: int | None = None,
        trim_right_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.dimension = _common_dimension('decoder', decoder, transformer, dimension)
        require_int('stride', stride)
        groups = self.dimension if upsample_groups is None else upsample_groups
        require_int('upsample_groups', groups)
        if self.dimension % groups:
            raise ValueError(
                f'upsample_groups={groups}: expected a divisor of dimension={self.dimension}'
            )
        self.channels: int = _integer(decoder, 'decoder', 'channels')
        self.hop_length = _integer(decoder, 'decoder', 'hop_length') * stride
        self.causal = _is_causal(decoder) and _is_causal(transformer)
        self.stride = stride
        self.upsample: nn.Module = nn.Identity()
        if stride > 1:
            self.upsample = StreamableConvTranspose1d(
                self.dimension,
                self.dimension,
                kernel_size=2 * stride,
                stride=stride,
                causal=self.causal,
                trim_right_ratio=trim_right_ratio,
                groups=groups,
                bias=False,
            )
        self.transformer = transformer
        self.decoder = decoder

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map latents [B, dimension, T] to the waveform [B, channels, T * hop_length]."""
        return self.decoder(self.transformer(self.upsample(z)))

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return what the parts read one after the other; see `reach`."""
        for part in (self.decoder, self.transformer, self.upsample):
            first, last = reads(part, first, last, recurrence)
        return Reach(first, last)


def _common_dimension(
    name: str, part: nn.Module, transformer: nn.Module, dimension: int | None
) -> int:
    """Return the channels of the latents, the same in all parts.

    Raises:
        ValueError: they differ.
    """
    found = {name: _integer(part, name, 'dimension')}
    if dimension is not None:
        found['latents'] = dimension
    own: Any = getattr(transformer, 'dimension', None)
    if own is not None:
        found['transformer'] = own
    if len(set(found.values())) > 1:
        listed = ', '.join(f'{value} in the {part}' for part, value in found.items())
        raise ValueError(f'dimension must be the same in all parts, got {listed}')
    return found[name]


def _integer(part: nn.Module, name: str, attribute: str) -> int:
    value = getattr(part, attribute, None)
    require_int(f'{name}.{attribute}', value)
    assert isinstance(value, int)
    return value


def _is_causal(part: nn.Module) -> bool:
    return bool(getattr(part, 'causal', False))
