"""What bottlenecks of continuous autoencoders share, and the one that changes nothing."""

from typing import NoReturn

import numpy as np
import torch

from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.discrete import projections
from audiocodec.quantization.usage import UpdateCounter
from audiocodec.utils import distrib


class ContinuousBottleneck(BaseQuantizer):
    """Base of the bottlenecks of continuous autoencoders.

    The codes are empty, [B, 0, T], and the bandwidth is 0.
    """

    def encode(self, latents: torch.Tensor) -> NoReturn:
        """Raise ValueError: there are no codes."""
        raise ValueError(self._no_codes())

    def decode(self, codes: torch.Tensor | np.ndarray) -> NoReturn:
        """Raise ValueError: there are no codes."""
        raise ValueError(f'{self._no_codes()}; decode its latents')

    def decode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the decoder's input [B, D, T] of latents from `encode_latent`, as of a file."""
        self._check_latents(latents)
        return latents

    @property
    def cardinality(self) -> int:
        """0: there are no codebooks."""
        return 0

    @property
    def total_codebooks(self) -> int:
        """0: there are no codebooks."""
        return 0

    @property
    def num_codebooks(self) -> int:
        """0: there are no codebooks."""
        return 0

    def set_num_codebooks(self, n: int) -> None:
        """Raise ValueError for any number except 0."""
        if n != 0:
            raise ValueError(
                f'cannot use {n} codebooks: a continuous autoencoder ({type(self).__name__}) has '
                'none'
            )

    def _no_codes(self) -> str:
        name = type(self).__name__
        return f'this model ({name}) is a continuous autoencoder: it has latents but no codes'

    def _result(
        self, latents: torch.Tensor, losses: dict[str, torch.Tensor] | None = None
    ) -> QuantizedResult:
        """Return latents [B, D, T] with the empty codes."""
        codes = torch.empty(
            latents.shape[0], 0, latents.shape[2], dtype=torch.int64, device=latents.device
        )
        zero = torch.zeros((), device=latents.device)
        return QuantizedResult(latents, codes, bandwidth=zero, losses=losses or {}, metrics={})


class NoQuantizer(ContinuousBottleneck):
    """Identity: a plain autoencoder.

    Args:
        dimension: number of channels D of the latents.
    """

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Return the latents unchanged."""
        self._check_latents(latents)
        return self._result(latents)


class NoisyBottleneck(ContinuousBottleneck):
    """Base of bottlenecks that add noise in training, to few channels.

    The noise depends on `seed`, on a counter that is part of the state, and on the number of the
    item in the batch of all workers.

    Args:
        dimension: channels D of encoder and decoder.
        latent_dimension: channels d of the latents of `encode_latent`; None: D.
        seed: seed of the noise.

    Raises:
        ValueError: a dimension is below 1.
    """

    def __init__(self, dimension: int, latent_dimension: int | None = None, seed: int = 0) -> None:
        super().__init__(dimension)
        self.latent_dimension = dimension if latent_dimension is None else latent_dimension
        if self.latent_dimension < 1:
            raise ValueError(f'latent_dimension={latent_dimension}: at least 1 channel is needed')
        self.seed = seed
        self.counter = UpdateCounter()
        self.project_in, self.project_out = projections(dimension, self.latent_dimension)

    def decode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the decoder's input [B, D, T] of latents [B, d, T] from `encode_latent`.

        Raises:
            ValueError: latents of the wrong shape.
        """
        if latents.dim() != 3 or latents.shape[1] != self.latent_dimension:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: expected [batch, '
                f'{self.latent_dimension}, frames], as returned by encode_latent'
            )
        with torch.autocast(latents.device.type, enabled=False):
            return self.project_out(self._to_float(latents)).to(self._dtype())

    def _noise(self, like: torch.Tensor, purpose: int) -> torch.Tensor:
        """Draw the standard normal noise of an update, [B, d, T]."""
        generators = distrib.item_generators(
            len(like), like.device, self.seed, purpose, self.counter.count()
        )
        self.counter.advance()
        noise = torch.empty_like(like, memory_format=torch.contiguous_format)
        for item, generator in zip(noise, generators):
            item.normal_(generator=generator)
        return noise

    def _to_float(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(torch.promote_types(self._dtype(), torch.float32))
