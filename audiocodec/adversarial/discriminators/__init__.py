"""Discriminators made of sub-discriminators that look at the waveform at different scales."""

from .base import MultiDiscriminator
from .mpd import MultiPeriodDiscriminator, PeriodDiscriminator
from .msd import MultiScaleDiscriminator, ScaleDiscriminator
from .msstft import MultiScaleSTFTDiscriminator, STFTDiscriminator

__all__ = [
    'MultiDiscriminator',
    'MultiPeriodDiscriminator',
    'MultiScaleDiscriminator',
    'MultiScaleSTFTDiscriminator',
    'PeriodDiscriminator',
    'STFTDiscriminator',
    'ScaleDiscriminator',
]
