"""Quantizers between continuous latents and codes."""

from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.continuous.base import ContinuousBottleneck, NoQuantizer
from audiocodec.quantization.continuous.noise import NoiseBottleneck
from audiocodec.quantization.continuous.vae import VariationalBottleneck
from audiocodec.quantization.discrete import DiscreteQuantizer
from audiocodec.quantization.rvq import ResidualVectorQuantizer
from audiocodec.quantization.scalar.fsq import FiniteScalarQuantizer
from audiocodec.quantization.scalar.lfq import LookupFreeQuantizer
from audiocodec.quantization.scalar.rfsq import ResidualFiniteScalarQuantizer
from audiocodec.quantization.usage import CodeUsage
from audiocodec.quantization.vector.dac import DACQuantizer
from audiocodec.quantization.vector.grouped import GroupedQuantizer
from audiocodec.quantization.vector.simvq import SimVectorQuantizer
from audiocodec.quantization.vector.split_rvq import SplitResidualVectorQuantizer
from audiocodec.quantization.vector.strided import StridedResidualQuantizer

__all__ = [
    'BaseQuantizer',
    'CodeUsage',
    'ContinuousBottleneck',
    'DACQuantizer',
    'DiscreteQuantizer',
    'FiniteScalarQuantizer',
    'GroupedQuantizer',
    'LookupFreeQuantizer',
    'NoQuantizer',
    'NoiseBottleneck',
    'QuantizedResult',
    'ResidualFiniteScalarQuantizer',
    'ResidualVectorQuantizer',
    'SimVectorQuantizer',
    'SplitResidualVectorQuantizer',
    'StridedResidualQuantizer',
    'VariationalBottleneck',
    'check_codes',
]
