"""ViSQOL, computed by the package `visqol-python` (arXiv 2004.09584)."""

import importlib.metadata
from functools import lru_cache
from typing import Any

import torch

from audiocodec.metrics.base import Metric, UnscorableError
from audiocodec.metrics.perceptual.mono import mono
from audiocodec.utils.errors import require

SAMPLE_RATES = {'audio': 48000, 'speech': 16000}  # Hz, of each mode
# what maps similarity to quality in each mode
_MAPPINGS = {'audio': 'support vector regression', 'speech': 'lattice network'}


class ViSQOL(Metric):
    """Mean opinion score (MOS-LQO) predicted by ViSQOL v3; 1 to about 4.73 (speech mode: 5).

    Needs the extra `metrics`. Signals are downmixed, and resampled to the rate of the mode. ViSQOL
    ignores level, polarity and delays of up to a second: see also `LoudnessDifference` and `SISNR`.

    Args:
        mode: 'audio' (48 kHz, for music and general audio) or 'speech' (16 kHz, with voice activity
            detection).

    Raises:
        ValueError: unknown mode, or the package is not installed.
    """

    higher_is_better = True
    unit = 'MOS'

    def __init__(self, mode: str = 'audio') -> None:
        if mode not in SAMPLE_RATES:
            raise ValueError(f'ViSQOL: mode must be one of {", ".join(SAMPLE_RATES)}, got {mode!r}')
        require('ViSQOL', 'metrics', 'visqol')
        if mode == 'speech':
            # Without the lattice runtime, the package maps speech by a polynomial, which predicts
            # 1 to 2 points more.
            require('the speech mode of ViSQOL', 'metrics', 'ai_edge_litert.interpreter')
        self.mode = mode

    @property
    def description(self) -> str:
        """See `Metric.description`."""
        version = importlib.metadata.version('visqol-python')
        return f'ViSQOL, {self.mode} mode, {_MAPPINGS[self.mode]} (visqol-python {version}), MOS'

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the MOS-LQO, see `Metric.score`."""
        rate = SAMPLE_RATES[self.mode]
        est, ref = mono(estimate, reference, sample_rate, rate)
        try:
            return float(_api(self.mode).measure_from_arrays(ref, est, rate).moslqo)
        except ValueError as error:  # too short for a patch
            raise UnscorableError(f'ViSQOL: {error}') from None


@lru_cache
def _api(mode: str) -> Any:
    """Return the evaluator of a mode; one per process, since it cannot be pickled."""
    import visqol

    api = visqol.VisqolApi()
    api.create(mode=mode, use_lattice_model=True if mode == 'speech' else None)
    return api
