"""Layers and networks that codecs are built of."""

from .activation import make_activation
from .conv import NormConv1d, NormConv2d, NormConvTranspose1d, StreamableConv1d, StreamableConvTranspose1d
from .lstm import StreamableLSTM
from .norm import CONV_NORMS
from .seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock

__all__ = [
    'CONV_NORMS',
    'NormConv1d',
    'NormConv2d',
    'NormConvTranspose1d',
    'SEANetDecoder',
    'SEANetEncoder',
    'SEANetResnetBlock',
    'StreamableConv1d',
    'StreamableConvTranspose1d',
    'StreamableLSTM',
    'make_activation',
]
