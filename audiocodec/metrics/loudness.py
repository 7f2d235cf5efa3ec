"""Difference of loudness as a metric."""

import math

import torch

from audiocodec.dsp.loudness import loudness
from audiocodec.metrics.base import Metric, UnscorableError


class LoudnessDifference(Metric):
    """Absolute difference of the integrated loudness (ITU-R BS.1770-4) in LU.

    Several perceptual metrics ignore the level: ViSQOL scores an estimate at half the level as the
    reference itself.
    """

    unit = 'LU'

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the difference in LU, see `Metric.score`."""
        levels = {
            'estimate': loudness(estimate, sample_rate),
            'reference': loudness(reference, sample_rate),
        }
        for name, level in levels.items():
            if not math.isfinite(level):
                raise UnscorableError(f'the {name} is silent (below -70 LKFS)')
        return abs(levels['estimate'] - levels['reference'])
