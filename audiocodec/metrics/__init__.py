"""Metrics of the evaluate stage, accumulated over batches and workers."""

from audiocodec.metrics.base import MeanMetric, Metric, without_padding
from audiocodec.metrics.mel import MelDistance
from audiocodec.metrics.sisnr import SISNR
from audiocodec.metrics.suite import MetricSuite
from audiocodec.metrics.visqol import ViSQOL

__all__ = [
    'SISNR',
    'MeanMetric',
    'MelDistance',
    'Metric',
    'MetricSuite',
    'ViSQOL',
    'without_padding',
]
