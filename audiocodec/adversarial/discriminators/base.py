"""Base class of the discriminators, and what their layers share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.modules.activation import make_activation
from audiocodec.modules.checks import require_int


class MultiDiscriminator(nn.Module):
    """Several sub-discriminators of the same waveform.

    Args:
        discriminators: modules that map [B, in_channels, T] to (logits, feature maps).
        in_channels: channels of the audio.
        order: indices of the sub-discriminators in the order of their computation; by default the
            given order. Those with the largest feature maps should come first, so that the memory
            that they free is large enough for the next ones.
        peak: the audio is first freed of its offset and scaled to this peak, see `normalize_peak`;
            None to use it as it is.

    Raises:
        ValueError: no sub-discriminator, or a peak that is not positive.
    """

    def __init__(
        self,
        discriminators: Iterable[nn.Module],
        in_channels: int,
        order: Sequence[int] | None = None,
        peak: float | None = None,
    ) -> None:
        super().__init__()
        if peak is not None and not peak > 0:
            raise ValueError(f'peak={peak!r}: expected a number > 0, or null to keep the level')
        self.peak = peak
        self.discriminators = nn.ModuleList(discriminators)
        self.order = range(len(self.discriminators)) if order is None else order
        self.in_channels = in_channels
        if not self.discriminators:
            raise ValueError(
                f'{type(self).__name__} needs at least one sub-discriminator: '
                'n_ffts, periods or scale_norms is empty'
            )

    @property
    def num_discriminators(self) -> int:
        """Number of sub-discriminators."""
        return len(self.discriminators)

    def prepare(self, wav: torch.Tensor, position: int) -> torch.Tensor:
        """Return the input of the sub-discriminator at a position in `order`.

        Args:
            wav: input of the previous one; for the first, the audio.
            position: index into `order`.
        """
        return wav

    def forward_each(self, wav: torch.Tensor) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Run the sub-discriminators one at a time.

        The outputs of one can be freed before the next is computed.

        Args:
            wav: [B, in_channels, T].

        Yields:
            Per sub-discriminator, in the order of `order`, logits and feature maps, see `forward`.

        Raises:
            ValueError: wrong shape or channels, or audio too short for a sub-discriminator.
        """
        if wav.dim() != 3 or wav.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} expects audio [B, {self.in_channels}, T], got '
                f'{list(wav.shape)}: in_channels must be the channels of the audio'
            )
        if self.peak is not None:
            wav = normalize_peak(wav, self.peak)
        for position, index in enumerate(self.order):
            wav = self.prepare(wav, position)
            yield self.discriminators[index](wav)

    def forward(self, wav: torch.Tensor) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Classify audio as real or fake.

        Args:
            wav: [B, in_channels, T].

        Returns:
            Per sub-discriminator: the logits [B, out_channels, ...], high for real audio, and the
            feature maps of its layers, [B, filters, ...] each. The items of a batch are independent
            of each other.

        Raises:
            ValueError: wrong shape or channels, or audio too short for a sub-discriminator.
        """
        outputs = dict(zip(self.order, self.forward_each(wav)))
        logits, feature_maps = zip(*(outputs[index] for index in range(len(outputs))))
        return list(logits), list(feature_maps)


def normalize_peak(wav: torch.Tensor, peak: float) -> torch.Tensor:
    """Remove the offset of each channel and scale each item to a peak.

    The levels of the channels of an item relative to each other are kept. See
    descript-audio-codec, which does this for mono. The precision is at least float32.

    Args:
        wav: [B, C, T].
        peak: largest absolute value of each item, unless it is silent.

    Returns:
        [B, C, T].
    """
    wav = wav.to(torch.promote_types(wav.dtype, torch.float32))
    wav = wav - wav.mean(dim=-1, keepdim=True)
    return peak * wav / (wav.abs().amax(dim=(1, 2), keepdim=True) + 1e-9)


def layer_activation(name: str, params: Mapping[str, Any] | None) -> nn.Module:
    """Create the activation between convolutions, in place if the gradients allow it.

    The backward pass of a convolution or a norm does not need its output, and that of a leaky ReLU
    can be computed from its output. In place, a layer therefore saves one map instead of two.
    """
    params = dict(params or {})
    if name == 'LeakyReLU' and params.get('negative_slope', 0.01) >= 0:
        params.setdefault('inplace', True)
    return make_activation(name, params)


def feature_maps(
    x: torch.Tensor, convs: Iterable[nn.Module], activation: nn.Module
) -> list[torch.Tensor]:
    """Return the outputs of all convolutions, each with the activation, for an input x."""
    features = []
    for conv in convs:
        x = activation(conv(x))
        features.append(x)
    return features


def require_first_feature(first_feature: int, n_layers: int) -> None:
    """Check the index of the first layer whose feature map is returned.

    Raises:
        ValueError: not an index of a layer.
    """
    require_int('first_feature', first_feature, 0)
    if first_feature >= n_layers:
        raise ValueError(
            f'first_feature={first_feature}: expected the index of one of {n_layers} layers'
        )
