"""Codecs of a few weights, causal unless told otherwise, for streams."""

import torch

from audiocodec.models import EncodecModel
from audiocodec.modules import (
    SEANetDecoder,
    SEANetEncoder,
    Transformer,
    TransformerDecoder,
    TransformerEncoder,
)
from audiocodec.quantization import ResidualVectorQuantizer


def seanet_codec(dtype=torch.float64, quantizer=None, decoder=None, encoder=None, **options):
    """A codec with 6 samples a frame. In double precision, no two codes are nearly tied."""
    torch.manual_seed(0)
    shared = {
        'dimension': 4,
        'n_filters': 2,
        'n_residual_layers': 1,
        'ratios': [3, 2],
        'kernel_size': 5,
        'last_kernel_size': 3,
        'norm': 'weight_norm',
        'causal': True,
        'pad_mode': 'constant',
        **options,
    }
    return (
        EncodecModel(
            SEANetEncoder(**shared, **(encoder or {})),
            SEANetDecoder(**shared, **(decoder or {})),
            quantizer
            or ResidualVectorQuantizer(
                dimension=shared['dimension'], n_q=2, bins=8, kmeans_init=False
            ),
            1000,
            shared.get('channels', 1),
        )
        .to(dtype=dtype)
        .eval()
    )


def mimi_codec(dtype=torch.float64, groups=None, ratio=1.0, **options):
    """A codec with transformers whose window is 5 frames of 6 samples; a frame of codes has 12."""
    seanet = seanet_codec(dtype, dimension=8, decoder={'trim_right_ratio': ratio}, **options)
    transformers = [Transformer(8, 2, 2, 16, context=5, layer_scale=0.5) for _ in range(2)]
    return (
        EncodecModel(
            TransformerEncoder(seanet.encoder, transformers[0]),
            TransformerDecoder(
                seanet.decoder, transformers[1], upsample_groups=groups, trim_right_ratio=ratio
            ),
            ResidualVectorQuantizer(dimension=8, n_q=2, bins=8, kmeans_init=False),
            1000,
            1,
        )
        .to(dtype=dtype)
        .eval()
    )
