"""Models of the `snac` package (arXiv 2410.14411): reads and writes their folders.

A folder has `config.json`, with the arguments of the package's class, and `pytorch_model.bin`.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.formats import hub
from audiocodec.models.formats.common.keys import is_projection, is_statistic
from audiocodec.models.formats.common.weight_norm import parametrized_names
from audiocodec.models.options import changed, node_of, refuse, spell_out
from audiocodec.modules.networks.snac import SNACDecoder, SNACEncoder, inverse_frequencies
from audiocodec.quantization.vector.strided import StridedResidualQuantizer

FORMAT = 'snac'
WEIGHTS = 'pytorch_model.bin'
# arguments of the package's class, and their defaults
DEFAULTS: dict[str, Any] = {
    'sampling_rate': 44100,
    'encoder_dim': 64,
    'encoder_rates': [3, 3, 7, 7],
    'latent_dim': None,
    'decoder_dim': 1536,
    'decoder_rates': [7, 7, 3, 3],
    'attn_window_size': 32,
    'codebook_size': 4096,
    'codebook_dim': 8,
    'vq_strides': [8, 4, 2, 1],
    'noise': True,
    'depthwise': True,
}
# keys that no other format has in its config.json
_OWN = ('encoder_rates', 'decoder_rates', 'vq_strides')
_PARTS = {
    'encoder': SNACEncoder,
    'decoder': SNACDecoder,
    'quantizer': StridedResidualQuantizer,
}
_ORIGINAL = 'parametrizations.weight.original'


def is_config(config: Mapping[str, Any]) -> bool:
    """Return whether the content of a `config.json` describes a model of the package."""
    return all(key in config for key in _OWN)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Translate a folder with `config.json` and weights.

    Returns:
        The `_target_` node of an `EncodecModel`, and its weights.

    Raises:
        ValueError: unreadable, or an option that is not supported.
    """
    node = model_config(hub.read_config(folder))
    return node, model_state(hub.read_weights(folder))


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a configuration to the `_target_` node of an `EncodecModel`.

    Args:
        config: content of `config.json`.

    Raises:
        ValueError: an option that is not supported.
    """
    unknown = sorted(str(key) for key in config if key not in DEFAULTS)
    if unknown:
        raise ValueError(
            f'{", ".join(unknown)} in config.json: expected only arguments of the snac package, '
            f'{", ".join(DEFAULTS)}'
        )
    config = {**DEFAULTS, **config}
    _check_config(config)
    dimension = config['encoder_dim'] * 2 ** len(config['encoder_rates'])
    shared = {
        'channels': 1,
        'dimension': dimension,
        'depthwise': config['depthwise'],
        'attention_window': config['attn_window_size'],
    }
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': {
            '_target_': 'audiocodec.modules.SNACEncoder',
            **shared,
            'n_filters': config['encoder_dim'],
            'ratios': list(reversed(config['encoder_rates'])),
            'frame_multiple': _frame_multiple(config),
        },
        'decoder': {
            '_target_': 'audiocodec.modules.SNACDecoder',
            **shared,
            'n_filters': config['decoder_dim'] // 2 ** len(config['decoder_rates']),
            'ratios': list(config['decoder_rates']),
            'noise': config['noise'],
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.StridedResidualQuantizer',
            'dimension': dimension,
            'strides': list(config['vq_strides']),
            'bins': config['codebook_size'],
            'codebook_dim': config['codebook_dim'],
        },
        'sample_rate': config['sampling_rate'],
        'channels': 1,
    }


def model_state(weights: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Translate the names of the weights to ours, and add the counters of training.

    Args:
        weights: names to tensors.

    Raises:
        ValueError: a value is not a tensor.
    """
    state = {}
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f'{name} among the weights is not a tensor but {type(value).__name__}')
        if not name.endswith('.rel_pos.inv_freq'):  # constants
            state[name] = value
    state = {_our_name(name): value for name, value in parametrized_names(state).items()}
    for name, value in state.items():
        if is_projection(name):
            state[name] = value.squeeze(-1)
    for name in list(state):
        if name.startswith('decoder.') and '.linear.' in name:
            block = name.partition('.linear.')[0]
            state[f'{block}.draws'] = torch.zeros((), dtype=torch.int64)
    return state


def save(model: CompressionModel, out: Path) -> list[str]:
    """Write configuration and weights into a new folder.

    Args:
        model: the model.
        out: the folder.

    Returns:
        Notes for the report.

    Raises:
        ValueError: the package does not support an option.
    """
    config = foreign_config(model)
    state = foreign_state(model)
    out.mkdir(parents=True, exist_ok=True)
    (out / hub.CONFIG).write_text(json.dumps(config, indent=2) + '\n', 'utf-8')
    torch.save(state, out / WEIGHTS)
    if not config['noise']:
        return []
    return ['the snac package draws new noise whenever it decodes: its waveforms differ slightly']


def foreign_config(model: CompressionModel) -> dict[str, Any]:
    """Return the arguments of the package's class.

    Raises:
        ValueError: the package does not support an option.
    """
    node = node_of(model, FORMAT)
    cls, options = spell_out(node)
    if cls is not EncodecModel:
        refuse(FORMAT, [f'_target_={node["_target_"]}, only EncodecModel is supported'])
    parts: dict[str, dict[str, Any]] = {}
    problems = []
    for part, expected in _PARTS.items():
        found, parts[part] = spell_out(node[part])
        if found is not expected:
            problems.append(
                f'{part}._target_={node[part]["_target_"]}, only {expected.__name__} is supported'
            )
    refuse(FORMAT, problems)
    encoder, decoder, quantizer = parts.values()
    config = {
        'sampling_rate': options['sample_rate'],
        'encoder_dim': encoder['n_filters'],
        'encoder_rates': list(reversed(encoder['ratios'])),
        'latent_dim': encoder['dimension'],
        'decoder_dim': decoder['n_filters'] * 2 ** len(decoder['ratios']),
        'decoder_rates': list(decoder['ratios']),
        'attn_window_size': encoder['attention_window'],
        'codebook_size': quantizer['bins'],
        'codebook_dim': quantizer['codebook_dim'],
        'vq_strides': list(quantizer['strides']),
        'noise': decoder['noise'],
        'depthwise': encoder['depthwise'],
    }
    known = ('sample_rate', 'channels', 'output_sample_rate', *_PARTS)
    problems = changed('model', EncodecModel, options, known)
    if model.output_sample_rate != model.sample_rate:
        problems.append(
            f'output_sample_rate={model.output_sample_rate}: it must be {model.sample_rate}'
        )
    if options['channels'] != 1:
        problems.append(f'channels={options["channels"]}: only 1 is supported')
    for key in ('depthwise', 'attention_window'):
        if encoder[key] != decoder[key]:
            problems.append(
                f'decoder.{key}={decoder[key]!r} differs from encoder.{key}={encoder[key]!r}: the '
                'package has one value for both'
            )
    refuse(FORMAT, problems)
    _check_config(config)
    if encoder['frame_multiple'] != _frame_multiple(config):
        refuse(
            FORMAT,
            [
                f'encoder.frame_multiple={encoder["frame_multiple"]}: the package has '
                f'{_frame_multiple(config)} with these strides and windows'
            ],
        )
    return config


def foreign_state(model: CompressionModel) -> dict[str, torch.Tensor]:
    """Translate weights to the names of the package, with folded weights as weight_norm."""
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if is_statistic(name) or name.endswith('.draws'):
            continue
        module, _, leaf = name.rpartition('.')
        theirs = _their_name(name)
        if is_projection(name):
            value = value[..., None]
        if leaf == 'weight' and module.endswith(('.conv', '.convtr', '_proj')):
            # a folded weight is its own direction; that of a zero weight must not be zero
            magnitude = torch.norm_except_dim(value, 2, 0)
            prefix = theirs.removesuffix('weight')
            state[f'{prefix}{_ORIGINAL}0'] = magnitude
            state[f'{prefix}{_ORIGINAL}1'] = torch.where(magnitude > 0, value, 1)
            continue
        state[theirs] = value
        if leaf == 'weight' and module.endswith('.to_qkv'):
            prefix = theirs.removesuffix('to_qkv.weight')
            state[f'{prefix}rel_pos.inv_freq'] = inverse_frequencies()
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _check_config(config: Mapping[str, Any]) -> None:
    """Check arguments of the package's class.

    Raises:
        ValueError: the package would not run with them, or they are not supported here.
    """
    for key in _OWN:
        values = config[key]
        if not isinstance(values, list) or not all(isinstance(v, int) and v > 0 for v in values):
            raise ValueError(f'{key}={values!r}: expected a list of positive integers')
    strides = config['vq_strides']
    if not strides or any(strides[0] % stride for stride in strides):
        raise ValueError(
            f'vq_strides={strides}: the package needs a first stride that is a multiple of the '
            'others, because it pads the waveform for that one'
        )
    dimension = config['encoder_dim'] * 2 ** len(config['encoder_rates'])
    if config['latent_dim'] not in (None, dimension):
        raise ValueError(
            f'latent_dim={config["latent_dim"]}: the encoder has {dimension} channels, encoder_dim '
            'doubled by each rate; expected the same, or null'
        )
    if config['decoder_dim'] % 2 ** len(config['decoder_rates']):
        raise ValueError(
            f'decoder_dim={config["decoder_dim"]}: cannot be halved for each of the '
            f'{len(config["decoder_rates"])} rates'
        )


def _frame_multiple(config: Mapping[str, Any]) -> int:
    """Return the number of which the package's number of frames is a multiple."""
    return math.lcm(config['vq_strides'][0], config['attn_window_size'] or 1)


def _our_name(name: str) -> str:
    """Translate the name of a weight of the package, with parametrized weights."""
    name = re.sub(r'^encoder\.block\.', 'encoder.model.', name)
    name = re.sub(r'^((?:en|de)coder\.model\.\d+)\.block\.', r'\1.', name)
    name = re.sub(r'^quantizer\.quantizers\.', 'quantizer.levels.', name)
    # here, a convolution is in a module that pads, in one that normalizes
    match = re.fullmatch(
        r'((?:en|de)coder\..*?)\.(parametrizations\.weight\.\w+|weight|bias)', name
    )
    if match is None or re.search(r'\.(norm|to_qkv|to_out)$', match[1]):
        return name
    transposed = re.fullmatch(r'decoder\.model\.\d+\.1', match[1])
    conv = 'convtr' if transposed else 'conv'
    return f'{match[1]}.{conv}.{conv}.{match[2]}'


def _their_name(name: str) -> str:
    """Translate the name of one of our weights; inverse of `_our_name`."""
    name = re.sub(r'\.(conv|convtr)\.\1\.', '.', name)
    name = re.sub(r'^((?:en|de)coder\.model\.\d+)\.(\d+)\.', r'\1.block.\2.', name)
    name = re.sub(r'^encoder\.model\.', 'encoder.block.', name)
    return re.sub(r'^quantizer\.levels\.', 'quantizer.quantizers.', name)
