"""Compression models: audio to discrete codes and back."""

from audiocodec.models.base import CodecOutput, CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.stereo import InterleaveStereoCompressionModel
from audiocodec.models.wrapped.auto import AudioTokenizer

__all__ = [
    'AudioTokenizer',
    'CodecOutput',
    'CompressionModel',
    'EncodecModel',
    'InterleaveStereoCompressionModel',
]
