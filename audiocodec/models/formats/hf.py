"""EnCodec models of `transformers` (type encodec), made ours: their `config.json` key by key, their
weights by name.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.formats import hub
from audiocodec.models.formats.keys import translate

# keys that shape the model, and the values `transformers` takes where they are absent
DEFAULTS: dict[str, Any] = {
    'target_bandwidths': [1.5, 3.0, 6.0, 12.0, 24.0],
    'sampling_rate': 24000,
    'audio_channels': 1,
    'normalize': False,
    'chunk_length_s': None,
    'overlap': None,
    'hidden_size': 128,
    'num_filters': 32,
    'num_residual_layers': 1,
    'upsampling_ratios': [8, 5, 4, 2],
    'norm_type': 'weight_norm',
    'kernel_size': 7,
    'last_kernel_size': 7,
    'residual_kernel_size': 3,
    'dilation_growth_rate': 2,
    'use_causal_conv': True,
    'pad_mode': 'reflect',
    'compress': 2,
    'num_lstm_layers': 2,
    'trim_right_ratio': 1.0,
    'codebook_size': 1024,
    'codebook_dim': None,
    'use_conv_shortcut': True,
}
# options of the encoder and the decoder: name here, name there
SEANET = {
    'channels': 'audio_channels',
    'dimension': 'hidden_size',
    'n_filters': 'num_filters',
    'n_residual_layers': 'num_residual_layers',
    'ratios': 'upsampling_ratios',
    'norm': 'norm_type',
    'kernel_size': 'kernel_size',
    'last_kernel_size': 'last_kernel_size',
    'residual_kernel_size': 'residual_kernel_size',
    'dilation_base': 'dilation_growth_rate',
    'causal': 'use_causal_conv',
    'pad_mode': 'pad_mode',
    'compress': 'compress',
    'lstm': 'num_lstm_layers',
}
_CODEBOOK = re.compile(r'quantizer\.layers\.(\d+)\.codebook\.(embed|embed_avg|cluster_size|inited)')
_LAYER = re.compile(r'(encoder|decoder)\.layers\.(\d+)\.(.*)')


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Translate a folder with `config.json` and weights.

    Returns:
        The `_target_` node of an `EncodecModel`, and its weights.

    Raises:
        ValueError: unreadable, or an option that is not supported.
    """
    weights = hub.read_weights(folder)
    levels = len({match[1] for match in map(_CODEBOOK.fullmatch, weights) if match})
    node = model_config(hub.read_config(folder), levels)
    return node, model_state(weights, node)


def model_config(config: Mapping[str, Any], levels: int | None = None) -> dict[str, Any]:
    """Translate a configuration to the `_target_` node of an `EncodecModel`.

    Args:
        config: what `config.json` holds.
        levels: codebooks among the weights, None if not known. Older versions counted them in
            another way.

    Raises:
        ValueError: an option that is not supported.
    """
    config = {**DEFAULTS, **{key: value for key, value in config.items() if key in DEFAULTS}}
    if config['codebook_dim'] not in (None, config['hidden_size']):
        raise ValueError(
            f'codebook_dim={config["codebook_dim"]} differs from '
            f'hidden_size={config["hidden_size"]}: '
            f'codebooks with a projection are not supported.'
        )
    if config['chunk_length_s'] is not None and config['overlap'] is None:
        raise ValueError(
            f'chunk_length_s={config["chunk_length_s"]} needs an overlap (a fraction of it), not '
            'null.'
        )
    seanet = {
        'activation': 'ELU',
        'activation_params': {'alpha': 1.0},
        **{ours: config[theirs] for ours, theirs in SEANET.items()},
        'true_skip': not config['use_conv_shortcut'],
    }
    segments = (
        {}
        if config['chunk_length_s'] is None
        else {'segment_duration': config['chunk_length_s'], 'overlap': config['overlap']}
    )
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
        'decoder': {
            '_target_': 'audiocodec.modules.SEANetDecoder',
            **seanet,
            'trim_right_ratio': config['trim_right_ratio'],
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': config['hidden_size'],
            'n_q': _n_q(config, levels),
            'bins': config['codebook_size'],
            # a model of several bandwidths was trained with all of them
            'q_dropout': len(config['target_bandwidths']) > 1,
            'kmeans_iters': 50,
        },
        'sample_rate': config['sampling_rate'],
        'channels': config['audio_channels'],
        'renormalize': config['normalize'],
        **segments,
    }


def model_state(weights: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Translate the names of the weights to ours.

    Args:
        weights: names to tensors.
        node: of the model.

    Raises:
        ValueError: something else than tensors, or an incomplete set of codebooks.
    """
    transposed = _transposed_layers(node['decoder'])
    renamed = {}
    for name, value in weights.items():
        match = _LAYER.fullmatch(name)
        if match:
            part, index, rest = match.groups()
            conv = 'convtr' if part == 'decoder' and int(index) in transposed else 'conv'
            # a convolution and its normalisation are in a module of their own here
            rest = re.sub(r'(^|\.)conv\.', rf'\g<1>{conv}.{conv}.', rest)
            rest = re.sub(r'(^|\.)norm\.', rf'\g<1>{conv}.norm.', rest)
            name = f'{part}.model.{index}.{rest}'
        renamed[name] = value
    return translate(renamed, _CODEBOOK)


def _transposed_layers(decoder: Mapping[str, Any]) -> list[int]:
    """Indices of the decoder's transposed convolutions: after a convolution, the LSTM, and an
    activation each.
    """
    stage = 2 + decoder['n_residual_layers']
    return [2 + bool(decoder['lstm']) + stage * index for index in range(len(decoder['ratios']))]


def _n_q(config: Mapping[str, Any], levels: int | None) -> int:
    """Codebooks for the highest bandwidth, by the formula of `transformers`."""
    frame_rate = math.ceil(config['sampling_rate'] / math.prod(config['upsampling_ratios']))
    # until version 4.53, a code was counted as 10 bits
    numbers = [
        int(1000 * config['target_bandwidths'][-1] // (frame_rate * bits))
        for bits in (math.ceil(math.log2(config['codebook_size'])), 10)
    ]
    return levels if levels is not None and levels in numbers else numbers[0]
