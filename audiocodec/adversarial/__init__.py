"""Discriminators, adversarial losses, and the trainer of the discriminators."""

from audiocodec.adversarial.discriminators import (
    MultiPeriodDiscriminator,
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
    'MultiPeriodDiscriminator',
    'MultiScaleDiscriminator',
    'MultiScaleSTFTDiscriminator',
    'get_criterion',
]
