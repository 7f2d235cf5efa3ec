"""Compression models: audio to discrete codes and back."""

from .base import CodecOutput, CompressionModel
from .dac import DAC
from .encodec import EncodecModel
from .mimi import Mimi
from .stereo import InterleaveStereoCompressionModel

__all__ = ['DAC', 'CodecOutput', 'CompressionModel', 'EncodecModel', 'InterleaveStereoCompressionModel', 'Mimi']
