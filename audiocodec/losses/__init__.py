"""Losses `loss(estimate, reference)`, those of a codec's whole output, and their balancer.

L1 and L2 losses are those of `torch.nn`.
"""

from audiocodec.losses.balancer import Balancer
from audiocodec.losses.base import CodecLoss, LossCombiner
from audiocodec.losses.distillation import SemanticDistillation
from audiocodec.losses.log_mel import MultiScaleLogMelLoss
from audiocodec.losses.sisnr import SISNR
from audiocodec.losses.spectral import (
    MelSpectrogramL1Loss,
    MRSTFTLoss,
    MultiScaleMelSpectrogramLoss,
)
from audiocodec.losses.weighted_sum import WeightedSum

__all__ = [
    'SISNR',
    'Balancer',
    'CodecLoss',
    'LossCombiner',
    'MRSTFTLoss',
    'MelSpectrogramL1Loss',
    'MultiScaleLogMelLoss',
    'MultiScaleMelSpectrogramLoss',
    'SemanticDistillation',
    'WeightedSum',
]
