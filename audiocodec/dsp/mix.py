"""Mixing of signals at given levels."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def mix(wavs: Sequence[torch.Tensor], gains_db: Sequence[float]) -> torch.Tensor:
    """Add signals at given levels; a sum beyond full scale is scaled down to it.

    Args:
        wavs: [C, T] each; shorter ones end earlier.
        gains_db: gain of each, dB.

    Returns:
        [C, T] of the longest.
    """
    length = max(wav.shape[-1] for wav in wavs)
    mixed = torch.zeros_like(F.pad(wavs[0], (0, length - wavs[0].shape[-1])))
    loudest_before = 1.0  # audio that was beyond full scale may stay there
    for wav, gain in zip(wavs, gains_db):
        mixed[..., : wav.shape[-1]] += wav * 10 ** (gain / 20)
        loudest_before = max(loudest_before, wav.abs().max().item() if wav.numel() else 0.0)
    peak = mixed.abs().max().item() if mixed.numel() else 0.0
    return mixed * (loudest_before / peak) if peak > loudest_before else mixed
