"""Discriminators, adversarial criteria, and the trainer that owns the discriminators."""

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
