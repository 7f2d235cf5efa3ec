"""Discriminators composed of sub-discriminators at different scales of the waveform."""

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
