"""Clicks: differences of a waveform that gather at the borders of chunks."""

import math
from collections.abc import Sequence

import torch

_WIDTH = 16  # samples on each side of a border
_FLOOR = 1e-30  # smallest power


def clicks(wav: torch.Tensor, found: torch.Tensor, borders: Sequence[int]) -> tuple[float, float]:
    """Compare the difference of two waveforms at borders with that elsewhere.

    Chunks that are decoded one by one and put together differ most where they meet, which is heard
    as clicks. The difference of an exact computation is rounding, the same everywhere.

    Args:
        wav: [..., T], computed as a whole.
        found: the same, computed in chunks.
        borders: first sample of each chunk but the first.

    Returns:
        RMS of the difference within 16 samples of a border and that elsewhere, in dB relative to
        the peak of `wav`; -300 for no difference.

    Raises:
        ValueError: shapes differ, or there is no border inside the signal.
    """
    if wav.shape != found.shape:
        raise ValueError(f'waveforms of shapes {list(wav.shape)} and {list(found.shape)} differ')
    near = torch.zeros(wav.shape[-1], dtype=torch.bool)
    for border in borders:
        near[max(0, border - _WIDTH) : border + _WIDTH] = True
    if near.all() or not near.any():
        raise ValueError(
            f'borders={list(borders)}: expected some in {wav.shape[-1]} samples, and samples '
            f'further than {_WIDTH} from all'
        )
    peak = wav.abs().max().item() or 1.0
    power = ((found.double() - wav.double()) / peak).square().flatten(0, -2).mean(0)
    return _decibels(power[near]), _decibels(power[~near])


def _decibels(power: torch.Tensor) -> float:
    return 10 * math.log10(power.mean().item() + _FLOOR)
