"""Reconstruction losses `loss(estimate, reference)` and their balancer.

L1 and L2 losses are those of `torch.nn`.
"""

from audiocodec.losses.balancer import Balancer
from audiocodec.losses.base import CodecLoss
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
    'MRSTFTLoss',
    'MelSpectrogramL1Loss',
    'MultiScaleLogMelLoss',
    'MultiScaleMelSpectrogramLoss',
    'WeightedSum',
]
