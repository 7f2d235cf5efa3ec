"""Quantizers between continuous latents and codes."""

from audiocodec.quantization.base import BaseQuantizer, NoQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.rvq import ResidualVectorQuantizer
from audiocodec.quantization.strided import StridedResidualQuantizer
from audiocodec.quantization.usage import CodeUsage

__all__ = [
    'BaseQuantizer',
    'CodeUsage',
    'NoQuantizer',
    'QuantizedResult',
    'ResidualVectorQuantizer',
    'StridedResidualQuantizer',
    'check_codes',
]
