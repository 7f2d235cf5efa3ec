"""Discriminators made of sub-discriminators that look at the waveform at different scales."""

from audiocodec.adversarial.discriminators.base import MultiDiscriminator
from audiocodec.adversarial.discriminators.mpd import MultiPeriodDiscriminator, PeriodDiscriminator
from audiocodec.adversarial.discriminators.msd import MultiScaleDiscriminator, ScaleDiscriminator
from audiocodec.adversarial.discriminators.msstft import (
    MultiScaleSTFTDiscriminator,
    STFTDiscriminator,
)

__all__ = [
    'MultiDiscriminator',
    'MultiPeriodDiscriminator',
    'MultiScaleDiscriminator',
    'MultiScaleSTFTDiscriminator',
    'PeriodDiscriminator',
    'STFTDiscriminator',
    'ScaleDiscriminator',
]
