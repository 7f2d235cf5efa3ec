"""Losses `loss(estimate, reference)`, those of a codec's whole output, and their balancer.

L1 and L2 losses are those of `torch.nn`.
"""

from audiocodec.losses.balancer import Balancer
from audiocodec.losses.base import CodecLoss
from audiocodec.losses.distillation import SemanticDistillation
from audiocodec.losses.sisnr import SISNR
from audiocodec.losses.spectral import (
    MelSpectrogramL1Loss,
    MRSTFTLoss,
    MultiScaleMelSpectrogramLoss,
)

__all__ = [
    'SISNR',
    'Balancer',
    'CodecLoss',
    'MRSTFTLoss',
    'MelSpectrogramL1Loss',
    'MultiScaleMelSpectrogramLoss',
    'SemanticDistillation',
]
