"""Bottleneck with normalized latents and noise of a fixed size."""

import torch

from audiocodec.quantization.base import QuantizedResult
from audiocodec.quantization.continuous.base import NoisyBottleneck

_DRAW_NOISE = 0x4E4F4901  # identifies the random stream, see `distrib.shared_generator`
_EPSILON = 1e-5


class NoiseBottleneck(NoisyBottleneck):
    """Normalizes the latents, and adds Gaussian noise in training, for diffusion models.

    Every frame is divided by the root mean square of its channels. The noise makes the decoder
    tolerate the errors of a diffusion model, and limits the information in the latents, as with a
    variational autoencoder of fixed scale (sigma-VAE of LatentLM, arXiv 2412.08635, section 3.2).
    Computes in float32, also under autocast.

    Args:
        dimension: channels D of encoder and decoder.
        std: standard deviation of the noise; the latents have a root mean square of 1.
        latent_dimension: channels d of the latents; None: D. Linear maps convert between d and D.
        seed: seed of the noise.

    Raises:
        ValueError: `std` is negative.
    """

    training_options = frozenset(('std', 'seed'))

    def __init__(
        self,
        dimension: int,
        std: float = 0.2,
        latent_dimension: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dimension, latent_dimension, seed)
        if std < 0:
            raise ValueError(f'std={std}: the standard deviation of noise is at least 0')
        self.std = std

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Normalize the latents; in training, add noise.

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_batch(latents)
        with torch.autocast(latents.device.type, enabled=False):
            normalized = self._normalize(latents)
            if self.counter.training:
                normalized = normalized + self.std * self._noise(normalized, _DRAW_NOISE)
            return self._result(self.project_out(normalized).to(self._dtype()))

    def encode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the normalized latents, float [B, d, T], of the encoder's latents [B, D, T]."""
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            return self._normalize(latents).to(self._dtype())

    def _normalize(self, latents: torch.Tensor) -> torch.Tensor:
        projected = self.project_in(self._to_float(latents))
        return projected * (projected.square().mean(1, keepdim=True) + _EPSILON).rsqrt()
