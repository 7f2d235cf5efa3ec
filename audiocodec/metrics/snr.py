"""Signal-to-noise ratio as a metric."""

import torch

from audiocodec.dsp.sisnr import EPSILON
from audiocodec.metrics.base import Metric, UnscorableError


class SNR(Metric):
    """Signal-to-noise ratio in dB.

    Unlike SI-SNR, it is lowered by a wrong level.

    Args:
        epsilon: energy per sample added to both energies.
    """

    higher_is_better = True
    unit = 'dB'

    def __init__(self, epsilon: float = EPSILON) -> None:
        self.epsilon = epsilon

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Return the ratio of the energies of reference and difference, see `Metric.score`."""
        signal = reference.double().square().sum()
        noise = (estimate.double() - reference.double()).square().sum()
        if not signal > 0:
            raise UnscorableError('the reference is silent')
        floor = self.epsilon * reference.numel()
        return 10 * torch.log10((floor + signal) / (floor + noise))
