"""Metrics of reconstructions: one score per item."""

from audiocodec.metrics.base import Metric, Score, UnscorableError, without_padding
from audiocodec.metrics.loudness import LoudnessDifference
from audiocodec.metrics.mel import MelDistance
from audiocodec.metrics.multiscale_mel import MultiScaleMelDistance
from audiocodec.metrics.perceptual.mos import DNSMOS, DistillMOS
from audiocodec.metrics.perceptual.pesq import PESQ
from audiocodec.metrics.perceptual.stoi import STOI
from audiocodec.metrics.perceptual.visqol import ViSQOL
from audiocodec.metrics.perceptual.visqol_binary import ViSQOLBinary
from audiocodec.metrics.perceptual.zimtohrli import Zimtohrli
from audiocodec.metrics.sisnr import SISNR
from audiocodec.metrics.snr import SNR
from audiocodec.metrics.spectral import LogSpectralDistance, STFTDistance
from audiocodec.metrics.suite import MetricSuite, score_item

__all__ = [
    'DNSMOS',
    'PESQ',
    'SISNR',
    'SNR',
    'STOI',
    'DistillMOS',
    'LogSpectralDistance',
    'LoudnessDifference',
    'MelDistance',
    'Metric',
    'MetricSuite',
    'MultiScaleMelDistance',
    'STFTDistance',
    'Score',
    'UnscorableError',
    'ViSQOL',
    'ViSQOLBinary',
    'Zimtohrli',
    'score_item',
    'without_padding',
]
