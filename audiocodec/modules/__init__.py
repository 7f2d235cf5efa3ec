"""Layers and networks of neural codecs."""

from audiocodec.modules.activation import make_activation
from audiocodec.modules.conv import (
    NormConv1d,
    NormConv2d,
    NormConvTranspose1d,
    StreamableConv1d,
    StreamableConvTranspose1d,
)
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.networks.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock
from audiocodec.modules.networks.snac import SNACDecoder, SNACEncoder
from audiocodec.modules.networks.vocos import VocosDecoder
from audiocodec.modules.norm import CONV_NORMS
from audiocodec.modules.snake import Snake
from audiocodec.modules.transformer.codec import TransformerDecoder, TransformerEncoder
from audiocodec.modules.transformer.layers import Transformer

__all__ = [
    'CONV_NORMS',
    'NormConv1d',
    'NormConv2d',
    'NormConvTranspose1d',
    'SEANetDecoder',
    'SEANetEncoder',
    'SEANetResnetBlock',
    'SNACDecoder',
    'SNACEncoder',
    'Snake',
    'StreamableConv1d',
    'StreamableConvTranspose1d',
    'StreamableLSTM',
    'Transformer',
    'TransformerDecoder',
    'TransformerEncoder',
    'VocosDecoder',
    'make_activation',
]
