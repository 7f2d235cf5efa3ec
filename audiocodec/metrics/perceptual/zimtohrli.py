"""Zimtohrli, computed by the package `zimtohrli`."""

import torch

from audiocodec.metrics.base import Metric
from audiocodec.metrics.perceptual.mono import check_duration, mono
from audiocodec.utils.errors import require

SAMPLE_RATE = 48000  # Hz
_SHORTEST = 0.25  # seconds


class Zimtohrli(Metric):
    """Mean opinion score predicted from just noticeable differences (Zimtohrli); 1 to 5.

    Alakuijala et al., arXiv 2509.26133. Needs the extra `metrics`. Signals are downmixed, and
    resampled to 48 kHz.

    Raises:
        ValueError: the package is not installed.
    """

    higher_is_better = True
    unit = 'MOS'

    def __init__(self) -> None:
        require('Zimtohrli', 'metrics', 'zimtohrli')

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the score, see `Metric.score`."""
        import zimtohrli

        est, ref = mono(estimate, reference, sample_rate, SAMPLE_RATE)
        check_duration(ref, SAMPLE_RATE, _SHORTEST)
        return float(zimtohrli.mos_from_signals(ref, est))
