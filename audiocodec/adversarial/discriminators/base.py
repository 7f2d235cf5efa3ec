"""What the discriminators have in common."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.modules.activation import make_activation


class MultiDiscriminator(nn.Module):
    """Sub-discriminators run on the same waveform.

    Args:
        discriminators: modules that map [B, in_channels, T] to (logits, feature maps).
        in_channels: channels of the audio.
        turns: indices of the sub-discriminators in the order in which they are asked, by default
            their own. Those with the largest maps should come first: the memory that is free after
            them then fits the next ones.

    Raises:
        ValueError: no sub-discriminator.
    """

    def __init__(
        self,
        discriminators: Iterable[nn.Module],
        in_channels: int,
        turns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)
        self.turns = range(len(self.discriminators)) if turns is None else turns
        self.in_channels = in_channels
        if not self.discriminators:
            raise ValueError(
                f'{type(self).__name__} needs at least one sub-discriminator: '
                'n_ffts, periods or scale_norms is empty.'
            )

    @property
    def num_discriminators(self) -> int:
        """Number of sub-discriminators."""
        return len(self.discriminators)

    def prepare(self, wav: torch.Tensor, turn: int) -> torch.Tensor:
        """Give the input of the sub-discriminator whose turn it is, from that of the one before, or
        from the audio.
        """
        return wav

    def verdicts(self, wav: torch.Tensor) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Judge audio by one sub-discriminator after the other: what one made can go before the
        next begins.

        Args:
            wav: [B, in_channels, T].

        Yields:
            Per sub-discriminator, in the order of `turns`, logits and feature maps, see `forward`.

        Raises:
            ValueError: wrong shape or channels, or audio too short for a sub-discriminator.
        """
        if wav.dim() != 3 or wav.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} expects audio [B, {self.in_channels}, T], got '
                f'{list(wav.shape)}: in_channels must be the channels of the audio.'
            )
        for turn, index in enumerate(self.turns):
            wav = self.prepare(wav, turn)
            yield self.discriminators[index](wav)

    def forward(self, wav: torch.Tensor) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Judge audio.

        Args:
            wav: [B, in_channels, T].

        Returns:
            Per sub-discriminator: the logits [B, out_channels, ...], high for real audio; and the
            feature maps of its layers, [B, filters, ...] each. The items of a batch do not
            influence each other.

        Raises:
            ValueError: wrong shape or channels, or audio too short for a sub-discriminator.
        """
        said = dict(zip(self.turns, self.verdicts(wav)))
        logits, feature_maps = zip(*(said[index] for index in range(len(said))))
        return list(logits), list(feature_maps)


def layer_activation(name: str, params: Mapping[str, Any] | None) -> nn.Module:
    """Make the activation between convolutions, in place where the gradients allow it.

    The backward pass of a convolution or a norm never reads its own output, and that of a leaky
    ReLU can be computed from its result: in place, a layer keeps one map instead of two.
    """
    params = dict(params or {})
    if name == 'LeakyReLU' and params.get('negative_slope', 0.01) >= 0:
        params.setdefault('inplace', True)
    return make_activation(name, params)
