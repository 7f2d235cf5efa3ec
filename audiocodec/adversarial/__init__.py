"""Discriminators, adversarial criteria, and the trainer that owns the discriminators."""

from .audiocraft import convert_audiocraft_state
from .discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator, MultiScaleSTFTDiscriminator
from .losses import CRITERIA, Criterion, FeatureMatchingLoss, get_criterion
from .trainer import AdversarialTrainer

__all__ = [
    'CRITERIA',
    'AdversarialTrainer',
    'Criterion',
    'FeatureMatchingLoss',
    'MultiPeriodDiscriminator',
    'MultiScaleDiscriminator',
    'MultiScaleSTFTDiscriminator',
    'convert_audiocraft_state',
    'get_criterion',
]
