"""Compression models: audio to discrete codes and back."""

from audiocodec.models.base import CodecOutput, CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.stereo import InterleaveStereoCompressionModel
from audiocodec.models.wrapped.auto import AudioTokenizer
from audiocodec.models.wrapped.dac import DAC
from audiocodec.models.wrapped.mimi import Mimi

__all__ = [
    'DAC',
    'AudioTokenizer',
    'CodecOutput',
    'CompressionModel',
    'EncodecModel',
    'InterleaveStereoCompressionModel',
    'Mimi',
]
