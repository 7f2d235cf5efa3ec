"""Discriminators composed of sub-discriminators at different scales of the waveform."""

from audiocodec.adversarial.discriminators.base import MultiDiscriminator
from audiocodec.adversarial.discriminators.cqt import CQTDiscriminator, MultiScaleCQTDiscriminator
from audiocodec.adversarial.discriminators.mpd import MultiPeriodDiscriminator, PeriodDiscriminator
from audiocodec.adversarial.discriminators.msd import MultiScaleDiscriminator, ScaleDiscriminator
from audiocodec.adversarial.discriminators.msstft import (
    MultiScaleSTFTDiscriminator,
    STFTDiscriminator,
)
from audiocodec.adversarial.discriminators.multiband import (
    BandSTFTDiscriminator,
    MultiBandSTFTDiscriminator,
    MultiResolutionSTFTDiscriminator,
)
from audiocodec.adversarial.discriminators.spectral import SpectralDiscriminator

__all__ = [
    'BandSTFTDiscriminator',
    'CQTDiscriminator',
    'MultiBandSTFTDiscriminator',
    'MultiDiscriminator',
    'MultiPeriodDiscriminator',
    'MultiResolutionSTFTDiscriminator',
    'MultiScaleCQTDiscriminator',
    'MultiScaleDiscriminator',
    'MultiScaleSTFTDiscriminator',
    'PeriodDiscriminator',
    'STFTDiscriminator',
    'ScaleDiscriminator',
    'SpectralDiscriminator',
]
