"""The configuration of a codec that is built and run in milliseconds."""

from typing import Any


def tiny_codec(n_q: int = 3, kmeans_init: bool = True, **seanet: Any) -> dict[str, Any]:
    """Return the node of a model at 8 kHz and 50 frames per second, with 8 entries a codebook."""
    shared = {'dimension': 4, 'n_filters': 2, 'ratios': [8, 5, 4], **seanet}
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'sample_rate': 8000,
        'channels': 1,
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **shared},
        'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **shared},
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': 4,
            'n_q': n_q,
            'bins': 8,
            'kmeans_init': kmeans_init,
        },
    }
