"""Discriminators, adversarial losses, and the trainer of the discriminators."""

from audiocodec.adversarial.discriminators import (
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionSTFTDiscriminator,
    MultiScaleCQTDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from audiocodec.adversarial.losses import CRITERIA, Criterion, FeatureMatchingLoss, get_criterion
from audiocodec.adversarial.trainer import AdversarialTrainer

__all__ = [
    'CRITERIA',
    'AdversarialTrainer',
    'Criterion',
    'FeatureMatchingLoss',
    'MultiBandSTFTDiscriminator',
    'MultiPeriodDiscriminator',
    'MultiResolutionSTFTDiscriminator',
    'MultiScaleCQTDiscriminator',
    'MultiScaleDiscriminator',
    'MultiScaleSTFTDiscriminator',
    'get_criterion',
]
