"""PESQ, computed by the package `pesq`."""

import torch

from audiocodec.metrics.base import Metric, UnscorableError
from audiocodec.metrics.perceptual.mono import check_duration, mono
from audiocodec.utils.errors import require

SAMPLE_RATES = {'wb': 16000, 'nb': 8000}  # Hz, of each mode
_SHORTEST = 0.25  # seconds


class PESQ(Metric):
    """PESQ (MOS-LQO) of speech: ITU-T P.862.2 (wide band) or P.862.1 (narrow band); 1 to 4.64.

    Needs the extra `metrics`. Signals are downmixed, and resampled to 16 or 8 kHz.

    Args:
        mode: 'wb' (16 kHz) or 'nb' (8 kHz).

    Raises:
        ValueError: unknown mode, or the package is not installed.
    """

    higher_is_better = True
    unit = 'MOS'

    def __init__(self, mode: str = 'wb') -> None:
        if mode not in SAMPLE_RATES:
            raise ValueError(f'PESQ: mode must be one of {", ".join(SAMPLE_RATES)}, got {mode!r}')
        require('PESQ', 'metrics', 'pesq')
        self.mode = mode

    @property
    def description(self) -> str:
        """See `Metric.description`."""
        band = {'wb': 'wide band, P.862.2', 'nb': 'narrow band, P.862.1'}[self.mode]
        return f'PESQ ({band}), MOS-LQO of speech'

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the MOS-LQO, see `Metric.score`."""
        import pesq

        rate = SAMPLE_RATES[self.mode]
        est, ref = mono(estimate, reference, sample_rate, rate)
        check_duration(ref, rate, _SHORTEST)
        try:
            return float(pesq.pesq(rate, ref, est, self.mode))
        except pesq.PesqError as error:  # its message is bytes
            text = error.args[0] if error.args else type(error).__name__
            raise UnscorableError(text.decode() if isinstance(text, bytes) else str(text)) from None
        except ValueError as error:
            # "cannot convert float NaN to integer", if nothing of the estimate is left
            raise UnscorableError(f'PESQ cannot align it ({error})') from None
