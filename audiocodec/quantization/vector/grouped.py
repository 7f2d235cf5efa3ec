"""Product of quantizers, each for a part of the channels."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import nn

from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes


class GroupedQuantizer(BaseQuantizer):
    """Quantizes groups of the channels independently, each by its own quantizer.

    A product quantizer (PQ, Jégou et al. 2011), and with residual quantizers the grouped residual
    vector quantizer of HiFi-Codec, arXiv 2305.02765. The codebooks alternate between the groups:
    codebook k * groups + g is codebook k of group g, so that the first n * groups codebooks are the
    first n of every group, and a lower bit rate.

    Losses are means over the groups; metrics of the codebooks are in the order of the codes, and
    other metrics are means. Features of group g are called NAME_g. All groups have the same seed,
    so that quantizer dropout draws the same number of codebooks for each.

    Args:
        dimension: channels D of the latents.
        groups: number of groups G, a divisor of D. Group g has the channels from g * D / G.
        quantizer: makes the quantizer of a group, called as quantizer(dimension=D // G); in a
            configuration, a node with `_partial_: true`.

    Raises:
        ValueError: `groups` does not divide D, or the quantizers have no codes.
    """

    def __init__(
        self, dimension: int, groups: int, quantizer: Callable[..., BaseQuantizer]
    ) -> None:
        super().__init__(dimension)
        if groups < 1 or dimension % groups:
            raise ValueError(
                f'groups={groups}: expected a divisor of dimension={dimension}, at least 1'
            )
        if not callable(quantizer) or isinstance(quantizer, nn.Module):
            raise ValueError(
                f'quantizer={type(quantizer).__name__}: expected a factory, which makes one '
                'quantizer for each group; in a configuration, add _partial_: true to its node'
            )
        made = [quantizer(dimension=dimension // groups) for _ in range(groups)]
        if not made[0].total_codebooks:
            raise ValueError(f'quantizer={type(made[0]).__name__} has no codes to group')
        self.groups = nn.ModuleList(made)
        self.loss_terms = made[0].loss_terms
        self.unused_codes_advice = made[0].unused_codes_advice.replace(  # type: ignore[misc]
            '{section}', '{section}.quantizer'
        )

    @property
    def cardinality(self) -> int:
        """Number of entries per codebook."""
        return self._first.cardinality

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks, of all groups."""
        return len(self.groups) * self._first.total_codebooks

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use, of all groups."""
        return len(self.groups) * self._first.num_codebooks

    @property
    def possible_num_codebooks(self) -> range:
        """Multiples of the number of groups."""
        number, inner = len(self.groups), self._first.possible_num_codebooks
        return range(inner.start * number, inner[-1] * number + 1, inner.step * number)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, one of `possible_num_codebooks`.

        Raises:
            ValueError: `n` is not one of them.
        """
        if n not in self.possible_num_codebooks:
            raise ValueError(
                f'cannot use {n} codebooks: this quantizer can use '
                f'{", ".join(map(str, self.possible_num_codebooks))}'
            )
        for quantizer in self._quantizers():
            quantizer.set_num_codebooks(n // len(self.groups))

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize each group of channels of latents float [B, D, T]; see `BaseQuantizer`.

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_batch(latents)
        parts = latents.chunk(len(self.groups), dim=1)
        found = [one(part, frame_rate) for one, part in zip(self._quantizers(), parts)]
        return QuantizedResult(
            latents=torch.cat([one.latents for one in found], dim=1),
            codes=_interleave([one.codes for one in found], dim=1),
            bandwidth=torch.stack([one.bandwidth for one in found]).sum(),
            losses={
                name: torch.stack([one.losses[name] for one in found]).mean()
                for name in self.loss_terms
            },
            metrics=_merge_metrics([dict(one.metrics) for one in found]),
            features={
                f'{name}_{group}': value
                for group, one in enumerate(found)
                for name, value in one.features.items()
            },
        )

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents float [B, D, T].

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        parts = latents.chunk(len(self.groups), dim=1)
        return _interleave([one.encode(part) for one, part in zip(self._quantizers(), parts)], 1)

    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents, float [B, D, T], of codes [B, K, T], K a multiple of the groups.

        Raises:
            ValueError: not integers, wrong shape or device, or a code out of range.
        """
        codes = check_codes(codes, self.total_codebooks, self.cardinality, self._device())
        number = len(self.groups)
        if codes.shape[1] % number:
            raise ValueError(
                f'codes have shape {list(codes.shape)}: expected a number of codebooks that is a '
                f'multiple of the {number} groups'
            )
        parts = [one.decode(codes[:, g::number]) for g, one in enumerate(self._quantizers())]
        return torch.cat(parts, dim=1)

    def settle_statistics(self) -> None:
        """Adapt the statistics of every group; see `BaseQuantizer`."""
        for quantizer in self._quantizers():
            quantizer.settle_statistics()

    def drop_statistics(self) -> None:
        """Free the statistics of every group; see `BaseQuantizer`."""
        for quantizer in self._quantizers():
            quantizer.drop_statistics()

    @property
    def _first(self) -> BaseQuantizer:
        return self._quantizers()[0]

    def _quantizers(self) -> list[BaseQuantizer]:
        return cast(list[BaseQuantizer], list(self.groups))


def _interleave(parts: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Join tensors along a dimension K that all have, in the order of k first, then of the part."""
    return torch.stack(parts, dim + 1).flatten(dim, dim + 1)


def _merge_metrics(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    merged = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if values[0].dim():
            merged[name] = _interleave(values)
        else:
            stacked = torch.stack(values)
            merged[name] = stacked.min() if name.endswith('_min') else stacked.mean()
    return merged
