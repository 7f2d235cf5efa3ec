"""Mono signals at the sample rate of a perceptual metric."""

import numpy as np
import torch

from audiocodec.dsp.resample import resample
from audiocodec.metrics.base import UnscorableError


def mono(
    estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int, rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Downmix and resample both signals.

    Args:
        estimate: [C, T].
        reference: [C, T].
        sample_rate: their sample rate, Hz.
        rate: sample rate of the result, Hz.

    Returns:
        Estimate and reference, float64 [T].

    Raises:
        UnscorableError: one of them is silent, for which the metrics return arbitrary scores.
    """
    signals = [
        resample(wav.detach().cpu().float().mean(0), sample_rate, rate).double().numpy()
        for wav in (estimate, reference)
    ]
    for name, signal in zip(('estimate', 'reference'), signals):
        if not np.isfinite(signal).all():
            raise UnscorableError(f'the {name} is not finite')
        if not np.abs(signal).max(initial=0.0) > 0:
            raise UnscorableError(f'the {name} is silent')
    return signals[0], signals[1]


def check_duration(signal: np.ndarray, rate: int, seconds: float) -> None:
    """Raise `UnscorableError` if a signal is shorter than a metric needs."""
    if len(signal) < seconds * rate:
        raise UnscorableError(
            f'it is {len(signal) / rate:.2f} s long, shorter than the {seconds:g} s needed'
        )
