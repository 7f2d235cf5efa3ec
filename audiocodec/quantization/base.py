"""What every quantizer offers, and the one that does nothing."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn


class QuantizedResult(NamedTuple):
    """What a quantizer makes of a batch of latents.

    Attributes:
        latents: float [B, D, T], quantized; carries the gradient to the encoder.
        codes: int64 [B, K, T], K the number of codebooks used for this batch.
        bandwidth: 0-d, kbps of the codes.
        commitment_loss: 0-d, pulls the encoder towards the codebooks.
        metrics: 0-d tensors, and 1-d ones [K] of figures of each codebook, left on the device.
    """

    latents: torch.Tensor
    codes: torch.Tensor
    bandwidth: torch.Tensor
    commitment_loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class BaseQuantizer(nn.Module, ABC):
    """Turns latents [B, D, T] into codes [B, K, T] and back.

    Args:
        dimension: number of channels D of the latents.

    Raises:
        ValueError: `dimension` is below 1.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(
                f'dimension={dimension}: a quantizer needs latents of at least 1 channel.'
            )
        self._dimension = dimension

    @abstractmethod
    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, also learn from it.

        Args:
            latents: float [B, D, T].
            frame_rate: frames per second (Hz), for the bandwidth.
        """

    @abstractmethod
    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Codes, int64 [B, num_codebooks, T], of latents [B, D, T]."""

    @abstractmethod
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents [B, D, T] of codes [B, K, T], with 1 <= K <= total_codebooks."""

    @property
    def dimension(self) -> int:
        """Channels of the latents."""
        return self._dimension

    @property
    @abstractmethod
    def cardinality(self) -> int:
        """Entries of each codebook."""

    @property
    @abstractmethod
    def total_codebooks(self) -> int:
        """Number of codebooks there are."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""

    @abstractmethod
    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, 1 <= n <= total_codebooks."""

    def settle_statistics(self) -> None:
        """Make, in place, what is learnt from fit weights that come from elsewhere. By default,
        there is nothing.
        """

    def drop_statistics(self) -> None:
        """Let go, in place, of what only training needs. By default, there is nothing."""

    def bandwidth(self, frame_rate: float) -> float:
        """Kilobits per second of the codes at `frame_rate` (Hz), with the codebooks in use."""
        if self.num_codebooks == 0:
            return 0.0
        return self.num_codebooks * math.log2(self.cardinality) * frame_rate / 1000

    def _check_latents(self, latents: torch.Tensor) -> None:
        if latents.dim() != 3 or latents.shape[1] != self.dimension:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: expected [batch, {self.dimension}, '
                'frames], the quantizer '
                f'having dimension={self.dimension}.'
            )
        if not latents.is_floating_point():
            raise ValueError(
                f'latents of type {latents.dtype}: expected floating point; codes go to decode().'
            )


class NoQuantizer(BaseQuantizer):
    """Passes the latents through: a continuous autoencoder.

    Its codes are empty, [B, 0, T]; its bandwidth and commitment loss are 0.

    Args:
        dimension: number of channels D of the latents.
    """

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Return the latents as they are."""
        self._check_latents(latents)
        codes = torch.empty(
            latents.shape[0], 0, latents.shape[2], dtype=torch.int64, device=latents.device
        )
        zero = torch.zeros((), device=latents.device)
        return QuantizedResult(latents, codes, bandwidth=zero, commitment_loss=zero, metrics={})

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Raise ValueError: there are no codes."""
        raise ValueError(
            'This model is a continuous autoencoder (NoQuantizer): it has latents but no codes.'
        )

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Raise ValueError: there are no codes."""
        raise ValueError(
            'This model is a continuous autoencoder (NoQuantizer): it decodes latents, not codes.'
        )

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
        """Raise ValueError for any number but 0."""
        if n != 0:
            raise ValueError(
                f'{n} codebooks asked of a continuous autoencoder (NoQuantizer), which has none.'
            )
