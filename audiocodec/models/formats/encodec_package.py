"""Checkpoints of the `encodec` package: only weights; the model is inferred from their shapes.

The package has two models. This determines what weights do not show: mono with weight_norm is
causal, at 24 kHz; stereo with time_group_norm is at 48 kHz, not causal, renormalized, with segments
of 1 s.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from audiocodec.models.formats.common.keys import translate

_CODEBOOK = re.compile(
    r'quantizer\.vq\.layers\.(\d+)\._codebook\.(embed|embed_avg|cluster_size|inited)'
)
_FIRST, _EMBED = 'encoder.model.0.conv.conv.', 'quantizer.vq.layers.0._codebook.embed'
_MONO: dict[str, Any] = {'sample_rate': 24000, 'channels': 1, 'renormalize': False}
_STEREO: dict[str, Any] = {
    'sample_rate': 48000,
    'channels': 2,
    'renormalize': True,
    'segment_duration': 1.0,
    'overlap': 0.01,
}


def is_checkpoint(content: Mapping[Any, Any]) -> bool:
    """Return whether these are weights of the package's EnCodec."""
    return _EMBED in content and any(
        f'{_FIRST}{leaf}' in content for leaf in ('weight_v', 'weight')
    )


def read(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Translate the weights of the package.

    Args:
        weights: names to tensors.

    Returns:
        The `_target_` node of an `EncodecModel`, and its weights.

    Raises:
        ValueError: neither the mono nor the stereo model.
    """
    state = translate(weights, _CODEBOOK)
    return model_config(state), state


def model_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the `_target_` node of the `EncodecModel` with these weights, under our names.

    Raises:
        ValueError: neither the mono nor the stereo model.
    """
    kernels = {
        name.removesuffix('.bias'): _kernel(state, name.removesuffix('.bias'))
        for name in state
        if re.search(r'(conv|convtr)\.bias$', name)
    }
    first = kernels['encoder.model.0.conv.conv']
    norm = 'time_group_norm' if 'encoder.model.0.conv.norm.weight' in state else 'weight_norm'
    options = {(1, 'weight_norm'): _MONO, (2, 'time_group_norm'): _STEREO}.get((first[1], norm))
    if options is None:
        raise ValueError(
            f'these weights of the encodec package have {first[1]} channels and {norm}: only its '
            '24 kHz model (1 channel, weight_norm) and its 48 kHz model (2 channels, '
            'time_group_norm) are supported'
        )
    layers = _layers(kernels)
    book = state['quantizer.codebooks.embed']
    strided = [shape for index, shape in layers if index > 0][:-1]
    blocks = [
        name for name in kernels if re.fullmatch(r'encoder\.model\.\d+\.block\.1\.conv\.conv', name)
    ]
    seanet = {
        'channels': first[1],
        'dimension': book.shape[2],
        'n_filters': first[0],
        'n_residual_layers': len(blocks) // len(strided),
        'ratios': [shape[2] // 2 for shape in reversed(strided)],
        'activation': 'ELU',
        'activation_params': {'alpha': 1.0},
        'norm': norm,
        'kernel_size': first[2],
        'last_kernel_size': layers[-1][1][2],
        'residual_kernel_size': kernels[blocks[0]][2],
        'dilation_base': 2,
        'causal': options is _MONO,
        'pad_mode': 'reflect',
        'true_skip': not any('.shortcut.' in name for name in kernels),
        'compress': kernels[blocks[0]][1] // kernels[blocks[0]][0],
        'lstm': sum('encoder' in name and '.lstm.weight_ih_l' in name for name in state),
    }
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
        'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **seanet},
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': book.shape[2],
            'n_q': book.shape[0],
            'bins': book.shape[1],
            'q_dropout': True,
            'kmeans_iters': 50,
        },
        **options,
    }


def _layers(kernels: Mapping[str, torch.Size]) -> list[tuple[int, torch.Size]]:
    """Return index and shape of the encoder's convolutions: the first, one per ratio, the last."""
    matches = [re.fullmatch(r'encoder\.model\.(\d+)\.conv\.conv', name) for name in kernels]
    return sorted((int(match[1]), kernels[match[0]]) for match in matches if match)


def _kernel(state: Mapping[str, torch.Tensor], conv: str) -> torch.Size:
    """Return the kernel shape of a convolution, normalized or not: [out, in, size]."""
    for leaf in ('parametrizations.weight.original1', 'weight'):
        if f'{conv}.{leaf}' in state:
            return state[f'{conv}.{leaf}'].shape
    raise ValueError(f'{conv} has a bias but no weight among these weights of the encodec package')
