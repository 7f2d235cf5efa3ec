"""Interface of all quantizers, and what those without moving averages share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.stats import CodeStatistics
from audiocodec.utils import distrib

_DRAW_DROPOUT = 0x51444F01  # identifies the random stream, see `distrib.shared_generator`


class QuantizedResult(NamedTuple):
    """Quantized batch of latents.

    Attributes:
        latents: float [B, D, T], quantized; passes the gradient on to the encoder.
        codes: int64 [B, K, T], with K the number of codebooks used for this batch.
        bandwidth: 0-d, of the codes, in kbps.
        losses: 0-d tensors by name, those of `loss_terms`. Each is trained with the weight
            `losses.NAME.weight` of the recipe, and reaches the model beside the balancer.
        metrics: tensors on the device: scalars (0-d), or one value per codebook [K].
        features: further tensors with a gradient, by name, for losses of the codec such as a
            distillation; for example the latents of a single codebook.
    """

    latents: torch.Tensor
    codes: torch.Tensor
    bandwidth: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    metrics: Mapping[str, torch.Tensor]
    features: Mapping[str, torch.Tensor] = {}


class BaseQuantizer(nn.Module, ABC):
    """Converts latents [B, D, T] into codes [B, K, T] and back.

    Args:
        dimension: number of channels D of the latents.

    Attributes:
        loss_terms: names of the losses that `forward` returns.
        initialization_options: constructor arguments without effect on a trained model.
        training_options: constructor arguments that affect only its training, so that fine-tuning
            may change them.
        unused_codes_advice: what to try if few entries of the codebooks are used; {section} stands
            for the section of the configuration that sets the arguments.

    Raises:
        ValueError: `dimension` is below 1.
    """

    loss_terms: tuple[str, ...] = ()
    initialization_options: ClassVar[frozenset[str]] = frozenset()
    training_options: ClassVar[frozenset[str]] = frozenset()
    unused_codes_advice: ClassVar[str] = ''

    def __init__(self, dimension: int) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(
                f'dimension={dimension}: a quantizer needs latents with at least 1 channel'
            )
        self._dimension = dimension

    @abstractmethod
    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, also update the codebooks.

        Args:
            latents: float [B, D, T].
            frame_rate: frames per second (Hz), for the bandwidth.
        """

    @abstractmethod
    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents [B, D, T]."""

    @abstractmethod
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents [B, D, T] of codes [B, K, T], with 1 <= K <= total_codebooks."""

    def encode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what a model's `encode_latent` gives for the encoder's latents [B, D, T].

        The latents themselves, but for continuous autoencoders with a bottleneck.
        """
        return latents

    @property
    def dimension(self) -> int:
        """Channels of the latents."""
        return self._dimension

    @property
    @abstractmethod
    def cardinality(self) -> int:
        """Number of entries per codebook."""

    @property
    @abstractmethod
    def total_codebooks(self) -> int:
        """Total number of codebooks."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""

    @abstractmethod
    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, one of `possible_num_codebooks`."""

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts, ascending; empty without any."""
        return range(1, self.total_codebooks + 1)

    def settle_statistics(self) -> None:
        """Adapt training statistics, in place, to weights loaded from elsewhere.

        Does nothing by default.
        """

    def drop_statistics(self) -> None:
        """Free the statistics that only training needs, in place. Does nothing by default."""

    def bandwidth(self, frame_rate: float, num_codebooks: int | None = None) -> float:
        """Return the bit rate of the codes in kbps, without entropy coding.

        Args:
            frame_rate: frames per second (Hz).
            num_codebooks: use the first so many codebooks; None: those in use.
        """
        used = self.num_codebooks if num_codebooks is None else num_codebooks
        return used * math.log2(self.cardinality) * frame_rate / 1000 if used else 0.0

    def _check_latents(self, latents: torch.Tensor) -> None:
        if latents.dim() != 3 or latents.shape[1] != self.dimension:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: expected [batch, {self.dimension}, '
                f'frames] for a quantizer with dimension={self.dimension}'
            )
        if not latents.is_floating_point():
            raise ValueError(
                f'latents of type {latents.dtype}: expected floating point; pass codes to decode()'
            )

    def _check_batch(self, latents: torch.Tensor) -> None:
        """Check the latents of `forward`, of which there must be some."""
        self._check_latents(latents)
        if latents.numel() == 0:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: at least one item and one frame are '
                'needed'
            )

    def _dtype(self) -> torch.dtype:
        """Return the type of the quantizer's weights, float32 without any."""
        floats = (
            one for one in chain(self.parameters(), self.buffers()) if one.is_floating_point()
        )
        return next((one.dtype for one in floats), torch.float32)

    def _device(self) -> torch.device:
        """Return the device of the quantizer's weights, the CPU without any."""
        tensors = chain(self.parameters(), self.buffers())
        return next((one.device for one in tensors), torch.device('cpu'))


class Projection(nn.Linear):
    """Linear map of the channels, [B, D, T] to [B, d, T].

    Computes one product per item, which needs no copy in another order. On a CPU, it is 2 to 5
    times as fast as a convolution with kernel size 1, and as `nn.Linear` on transposed latents.
    """

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return [B, out_features, T], in the type of the latents [B, in_features, T]."""
        weight = self.weight.to(latents.dtype).expand(len(latents), -1, -1)
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
            levels = self._draw_active() if self.training else self.num_codebooks
            found = self._quantize(self._to_float(latents), levels)
            if self.training:
                self.statistics.add(found.codes)
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
