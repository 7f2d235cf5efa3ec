"""Quantizers between continuous latents and codes."""

from audiocodec.quantization.base import BaseQuantizer, NoQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.dac import DACQuantizer
from audiocodec.quantization.rvq import ResidualVectorQuantizer
from audiocodec.quantization.usage import CodeUsage

__all__ = [
    'BaseQuantizer',
    'CodeUsage',
    'DACQuantizer',
    'NoQuantizer',
    'QuantizedResult',
    'ResidualVectorQuantizer',
    'check_codes',
]
