"""Quantizers: from continuous latents to codes and back."""

from audiocodec.quantization.base import BaseQuantizer, NoQuantizer, QuantizedResult
from audiocodec.quantization.rvq import ResidualVectorQuantizer

__all__ = ['BaseQuantizer', 'NoQuantizer', 'QuantizedResult', 'ResidualVectorQuantizer']
