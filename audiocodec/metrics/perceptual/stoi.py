"""STOI and ESTOI, computed by the package `pystoi`."""

import warnings

import torch

from audiocodec.metrics.base import Metric, UnscorableError
from audiocodec.metrics.perceptual.mono import mono
from audiocodec.utils.errors import require


class STOI(Metric):
    """Short-time objective intelligibility of speech; 0 to 1.

    Taal et al., 2011; with `extended`, ESTOI (Jensen and Taal, 2016). Needs the extra `metrics`.

    Args:
        extended: compute ESTOI.

    Raises:
        ValueError: the package is not installed.
    """

    higher_is_better = True

    def __init__(self, extended: bool = False) -> None:
        require('STOI', 'metrics', 'pystoi')
        self.extended = extended

    @property
    def description(self) -> str:
        """See `Metric.description`."""
        return f'{"ESTOI" if self.extended else "STOI"}, intelligibility of speech, 0 to 1'

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the index, see `Metric.score`."""
        import pystoi

        est, ref = mono(estimate, reference, sample_rate, sample_rate)
        with warnings.catch_warnings():
            # With too little speech, pystoi warns and returns 1e-5.
            warnings.simplefilter('error', RuntimeWarning)
            try:
                return float(pystoi.stoi(ref, est, sample_rate, self.extended))
            except RuntimeWarning:
                raise UnscorableError(
                    'less than 0.4 s of it is within 40 dB of its loudest frame'
                ) from None
