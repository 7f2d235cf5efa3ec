"""Checks of audio files and manifests before training: what is damaged, silent, clipped,
narrow-band, duplicated.
"""

from audiocodec.data.doctor.file import WARNINGS, Limits
from audiocodec.data.doctor.report import Report, check

__all__ = ['WARNINGS', 'Limits', 'Report', 'check']
