"""Checks of a data set before training: damaged, silent, clipped, narrow-band, duplicate files."""

from audiocodec.data.doctor.file import WARNINGS, Limits
from audiocodec.data.doctor.report import Report, check

__all__ = ['WARNINGS', 'Limits', 'Report', 'check']
