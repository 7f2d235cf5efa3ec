"""Base class and activation of the discriminators."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from audiocodec.modules.activation import make_activation


class MultiDiscriminator(nn.Module):
    """Several sub-discriminators of the same waveform.

    Args:
        discriminators: modules that map [B, in_channels, T] to (logits, feature maps).
        in_channels: channels of the audio.
        order: indices of the sub-discriminators in the order of their computation; by default the
            given order. Those with the largest feature maps should come first, so that the memory
            that they free is large enough for the next ones.

    Raises:
        ValueError: no sub-discriminator.
    """

    def __init__(
        self,
        discriminators: Iterable[nn.Module],
        in_channels: int,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
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


def layer_activation(name: str, params: Mapping[str, Any] | None) -> nn.Module:
    """Create the activation between convolutions, in place if the gradients allow it.

    The backward pass of a convolution or a norm does not need its output, and that of a leaky ReLU
    can be computed from its output. In place, a layer therefore saves one map instead of two.
    """
    params = dict(params or {})
    if name == 'LeakyReLU' and params.get('negative_slope', 0.01) >= 0:
        params.setdefault('inplace', True)
    return make_activation(name, params)
