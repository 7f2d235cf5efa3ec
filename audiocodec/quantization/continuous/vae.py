"""Variational bottleneck of latent diffusion models."""

import torch
import torch.nn.functional as F

from audiocodec.quantization.base import QuantizedResult
from audiocodec.quantization.continuous.base import NoisyBottleneck
from audiocodec.quantization.discrete import Projection

_DRAW_SAMPLE = 0x56414501  # identifies the random stream, see `distrib.shared_generator`
_SMALLEST_SCALE = 1e-4


class VariationalBottleneck(NoisyBottleneck):
    """Samples the latents from a normal distribution that the encoder predicts (KL bottleneck).

    See VAE, arXiv 1312.6114, and Stable Audio, arXiv 2402.04825, section 3.1. A linear map gives a
    mean and a scale for each latent channel; the standard deviation is softplus(scale) + 1e-4. In
    eval mode, the latents are the means. Computes in float32, also under autocast.

    Args:
        dimension: channels D of encoder and decoder.
        latent_dimension: channels d of the latents; None: D. A linear map restores D channels for
            the decoder if d differs from D.
        seed: seed of the noise.
    """

    loss_terms = ('kl',)
    training_options = frozenset(('seed',))

    def __init__(self, dimension: int, latent_dimension: int | None = None, seed: int = 0) -> None:
        super().__init__(dimension, latent_dimension, seed)
        self.project_in = Projection(dimension, 2 * self.latent_dimension)

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Sample latents in training; return the means in eval mode.

        The loss 'kl' is the divergence from the standard normal distribution, in nats per frame,
        averaged over frames and items. (stable-audio-tools omits its factor 1/2: a weight there is
        half of a weight here.)

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_batch(latents)
        with torch.autocast(latents.device.type, enabled=False):
            mean, scale = self.project_in(self._to_float(latents)).chunk(2, dim=1)
            std = F.softplus(scale) + _SMALLEST_SCALE
            kl = (mean.square() + std.square() - 1).sum(1) / 2 - std.log().sum(1)
            if self.counter.training:
                mean = mean + std * self._noise(mean, _DRAW_SAMPLE)
            return self._result(self.project_out(mean).to(self._dtype()), {'kl': kl.mean()})

    def encode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the means, float [B, d, T], of the encoder's latents [B, D, T]."""
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            means = self.project_in(self._to_float(latents)).chunk(2, dim=1)[0]
            return means.to(self._dtype())
