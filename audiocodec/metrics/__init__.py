"""Figures of merit for the evaluate stage, added up over batches and workers."""

from .base import MeanMetric, Metric
from .mel import MelDistance
from .sisnr import SISNR
from .suite import MetricSuite
from .visqol import ViSQOL

__all__ = ['SISNR', 'MeanMetric', 'MelDistance', 'Metric', 'MetricSuite', 'ViSQOL']
