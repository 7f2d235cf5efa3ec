"""Reconstruction losses `loss(estimate, reference)` and their balancer. L1 and L2 come from `torch.nn`."""

from .balancer import Balancer
from .sisnr import SISNR
from .spectral import MelSpectrogramL1Loss, MRSTFTLoss, MultiScaleMelSpectrogramLoss

__all__ = ['SISNR', 'Balancer', 'MRSTFTLoss', 'MelSpectrogramL1Loss', 'MultiScaleMelSpectrogramLoss']
