"""What quantizers without moving averages of codebooks share."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.usage import CodeStatistics
from audiocodec.utils import distrib

_DRAW_DROPOUT = 0x51444F01  # identifies the random stream, see `distrib.shared_generator`


class Projection(nn.Linear):
    """Linear map of the channels, [B, D, T] to [B, d, T].

    Computes one product per item, which needs no copy in another order. On a CPU, it is 2 to 5
    times as fast as a convolution with kernel size 1, and as `nn.Linear` on transposed latents.
    """

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return [B, out_features, T], in the type of the latents [B, in_features, T]."""
        weight = self.weight.to(latents.dtype).expand(latents.shape[0], -1, -1)
        if self.bias is None:
            return torch.bmm(weight, latents)
        return torch.baddbmm(self.bias.to(latents.dtype)[:, None], weight, latents)


def projections(dimension: int, inner: int) -> tuple[nn.Module, nn.Module]:
    """Return maps of the channels to the inner dimension and back; identities if they are equal."""
    if dimension == inner:
        return nn.Identity(), nn.Identity()
    return Projection(dimension, inner), Projection(inner, dimension)


class Quantized(NamedTuple):
    """Latents quantized by a `DiscreteQuantizer`.

    Attributes:
        latents: float [B, D, T], quantized, with a gradient for the input.
        codes: int64 [B, K, T].
        losses: those of `loss_terms`.
        metrics: beside those of the codes.
    """

    latents: torch.Tensor
    codes: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    metrics: Mapping[str, torch.Tensor] = {}


class DiscreteQuantizer(BaseQuantizer):
    """Base of quantizers whose codebooks are fixed, or learn by gradient.

    Computes in float32, also under autocast. A subclass implements `_quantize` and `_decode`.

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks.
        cardinality: entries per codebook.
        q_dropout: in training, use for each batch a number of codebooks drawn uniformly from 1 to
            `num_codebooks`, the same on every worker.
        seed: seed of all random draws.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self, dimension: int, n_q: int, cardinality: int, q_dropout: bool = False, seed: int = 0
    ) -> None:
        super().__init__(dimension)
        if n_q < 1:
            raise ValueError(f'n_q={n_q}: at least 1 codebook is needed')
        self.q_dropout = q_dropout
        self.seed = seed
        self._total_codebooks = n_q
        self._num_codebooks = n_q
        self._cardinality = cardinality
        self.statistics = CodeStatistics(n_q, cardinality)

    @property
    def cardinality(self) -> int:
        """Number of entries per codebook."""
        return self._cardinality

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return self._total_codebooks

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use; with `q_dropout`, the maximum in training."""
        return self._num_codebooks

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks.

        Raises:
            ValueError: `n` is not in 1..total_codebooks.
        """
        if n not in self.possible_num_codebooks:
            raise ValueError(
                f'cannot use {n} codebooks: this quantizer can use 1 to {self.total_codebooks}'
            )
        self._num_codebooks = n

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, also update the statistics of all workers.

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Returns:
            Codes and bandwidth of the codebooks used for this batch. Metrics: see
            `CodeStatistics.metrics`.

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_batch(latents)
        with torch.autocast(latents.device.type, enabled=False):
            draws = self.statistics.training  # also if frozen, see `DrawCounter`
            levels = self._draw_active() if draws else self.num_codebooks
            found = self._quantize(self._to_float(latents), levels)
            if self.training:
                self.statistics.add(found.codes)
            elif draws:
                self.statistics.advance()
            bandwidth = self.bandwidth(frame_rate, levels)
            return QuantizedResult(
                latents=found.latents.to(self._dtype()),
                codes=found.codes,
                bandwidth=torch.full((), bandwidth, device=latents.device),
                losses=found.losses,
                metrics={**self.statistics.metrics(self.num_codebooks), **found.metrics},
            )

    @torch.no_grad()
    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents float [B, D, T].

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        if latents.numel() == 0:
            shape = (latents.shape[0], self.num_codebooks, latents.shape[2])
            return torch.empty(shape, dtype=torch.int64, device=latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            return self._encode(self._to_float(latents), self.num_codebooks)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents, float [B, D, T], of codes [B, K, T] of the first K codebooks.

        See `check_codes` for the accepted types.

        Raises:
            ValueError: not integers, wrong shape or device, too many codebooks, or a code out of
                range.
        """
        codes = check_codes(codes, self.total_codebooks, self.cardinality, self._device())
        with torch.autocast(codes.device.type, enabled=False):
            return self._decode(codes).to(self._dtype())

    def adapted_state(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the state of a quantizer with another number of codebooks, adapted to this one.

        Codebooks that it lacks are new; those that it has more are cut.
        """
        adapted = {}
        for name, own in self.state_dict().items():
            value = state.get(name, own)
            if own.dim() and value.shape[1:] == own.shape[1:]:
                value = torch.cat([value[: len(own)], own[len(value) :].to(value)])
            adapted[name] = value if value.shape == own.shape else own
        return adapted

    def drop_statistics(self) -> None:
        """Keep only what encoding and decoding need; see `BaseQuantizer`."""
        self.statistics.drop()

    @abstractmethod
    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        """Quantize latents [B, D, T], at least float32, with the first `levels` codebooks."""

    @abstractmethod
    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        """Return the codes that `_quantize` gives, [B, levels, T]."""

    @abstractmethod
    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents [B, D, T] of codes int64 [B, K, T]."""

    def _draw_active(self) -> int:
        """Return the number of codebooks for this batch, the same on every worker."""
        count = self.statistics.count()
        if not self.q_dropout:
            return self.num_codebooks
        generator = distrib.shared_generator(self.seed, _DRAW_DROPOUT, count)
        return int(torch.randint(1, self.num_codebooks + 1, (), generator=generator))

    def _to_float(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(torch.promote_types(self._dtype(), torch.float32))
