"""Compression models: audio to discrete codes and back."""

from .base import CodecOutput, CompressionModel
from .encodec import EncodecModel

__all__ = ['CodecOutput', 'CompressionModel', 'EncodecModel']
