"""DAC models (arXiv 2306.06546): weights of `descript-audio-codec` and folders of `transformers`.

Both hold the same layers under other names. A weights file is a dict with `state_dict` and
`metadata`, whose `kwargs` are constructor arguments; a folder has type dac.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats import hub
from audiocodec.models.formats.common.keys import is_projection
from audiocodec.models.formats.common.weight_norm import hook_names, parametrized_names
from audiocodec.models.options import node_of, refuse, spell_out
from audiocodec.utils.errors import require

SNAKE = 'audiocodec.modules.Snake'
# constructor arguments of the package: name in `config.json` of transformers, default
_HF_NAMES = {
    'encoder_dim': ('encoder_hidden_size', 64),
    'encoder_rates': ('downsampling_ratios', [2, 4, 8, 8]),
    'decoder_dim': ('decoder_hidden_size', 1536),
    'n_codebooks': ('n_codebooks', 9),
    'codebook_size': ('codebook_size', 1024),
    'codebook_dim': ('codebook_dim', 8),
    'quantizer_dropout': ('quantizer_dropout', 0.0),
    'sample_rate': ('sampling_rate', 16000),
}
_PACKAGE_DEFAULTS: dict[str, Any] = {
    **{key: default for key, (_, default) in _HF_NAMES.items()},
    'latent_dim': None,
    'decoder_rates': [8, 8, 4, 2],
    'sample_rate': 44100,
}
_RESIDUAL_LAYERS = 3
# what encoder and decoder of every DAC have in common
_SEANET = {
    'channels': 1,
    'n_residual_layers': _RESIDUAL_LAYERS,
    'activation': SNAKE,
    'norm': 'weight_norm',
    'kernel_size': 7,
    'residual_kernel_size': 7,
    'dilation_base': 3,
    'causal': False,
    'pad_mode': 'constant',
    'true_skip': True,
    'compress': 1,
    'lstm': 0,
    'disable_norm_outer_blocks': 0,
}
_ENCODER = {**_SEANET, 'last_kernel_size': 3, 'pad_input': True}
_DECODER = {**_SEANET, 'last_kernel_size': 7, 'final_activation': 'Tanh', 'trim_odd': True}
_MODEL = {'channels': 1, 'renormalize': False, 'segment_duration': None}


class Read(NamedTuple):
    """The `_target_` node of an `EncodecModel`, and its weights."""

    node: dict[str, Any]
    state: dict[str, torch.Tensor]


class _Names(NamedTuple):
    """Names of layers; {} stands for a number of `first` on.

    Attributes:
        outer: first and last convolution, and the activation before that, of the encoder and of
            the decoder.
        stage: of the encoder's and decoder's stages.
        encoder: activation and convolution of an encoder's stage.
        decoder: activation and convolution of a decoder's stage.
        units: residual blocks of an encoder's stage, then of a decoder's.
        unit: activation, convolution, activation, convolution of a residual block.
    """

    outer: tuple[tuple[str, str, str], tuple[str, str, str]]
    stage: tuple[str, str]
    encoder: tuple[str, str]
    decoder: tuple[str, str]
    units: tuple[tuple[str, str, str], tuple[str, str, str]]
    unit: tuple[str, str, str, str]


def _package_names(stages: int) -> _Names:
    return _Names(
        (
            ('block.0', f'block.{stages + 1}', f'block.{stages + 2}'),
            ('model.0', f'model.{stages + 1}', f'model.{stages + 2}'),
        ),
        ('block.{}', 'model.{}'),
        ('block.3', 'block.4'),
        ('block.0', 'block.1'),
        (('block.0', 'block.1', 'block.2'), ('block.2', 'block.3', 'block.4')),
        ('block.0', 'block.1', 'block.2', 'block.3'),
    )


def _hf_names(stages: int) -> _Names:
    units = ('res_unit1', 'res_unit2', 'res_unit3')
    return _Names(
        (('conv1', 'snake1', 'conv2'), ('conv1', 'snake1', 'conv2')),
        ('block.{}', 'block.{}'),
        ('snake1', 'conv1'),
        ('snake1', 'conv_t1'),
        (units, units),
        ('snake1', 'conv1', 'snake2', 'conv2'),
    )


def is_checkpoint(content: Mapping[Any, Any]) -> bool:
    """Return whether this is the content of a weights file of `descript-audio-codec`."""
    state = content.get('state_dict')
    return (
        isinstance(state, Mapping)
        and isinstance(content.get('metadata'), Mapping)
        and 'quantizer.quantizers.0.codebook.weight' in state
    )


def read_package(content: Mapping[str, Any]) -> Read:
    """Translate the content of a weights file of `descript-audio-codec`.

    Raises:
        ValueError: an option that is not supported, or a layer is missing.
    """
    kwargs = content['metadata'].get('kwargs') or {}
    options = {**_PACKAGE_DEFAULTS, **{k: v for k, v in kwargs.items() if k in _PACKAGE_DEFAULTS}}
    return _read(options, content['state_dict'], is_package=True)


def read_hf(folder: Path) -> Read:
    """Read a folder of a `transformers.DacModel`.

    Raises:
        ValueError: a file is missing or damaged, or an option is not supported.
    """
    config = hub.read_config(folder)
    options = {key: config.get(name, default) for key, (name, default) in _HF_NAMES.items()}
    options |= {'latent_dim': None, 'decoder_rates': list(options['encoder_rates'])[::-1]}
    return _read(options, hub.read_weights(folder), is_package=False)


def _read(options: Mapping[str, Any], weights: Mapping[str, Any], is_package: bool) -> Read:
    node = model_config(options)
    stages, levels = len(node['encoder']['ratios']), node['quantizer']['n_q']
    given = parametrized_names(weights)
    state = {}
    for ours, theirs in _layers(stages, levels, is_package):
        for leaf in ('alpha', 'weight', 'bias', *_WEIGHT_NORM):
            value = given.pop(f'{theirs}.{leaf}', None)
            if value is not None:
                state[f'{ours}.{leaf}'] = value
    if given:
        raise ValueError(
            f'these weights of DAC do not fit their configuration: {len(given)} unexpected '
            f'({", ".join(list(given)[:4])})'
        )
    state = _with_weight_norm(state)
    for name, value in state.items():
        if is_projection(name):  # theirs is a convolution
            state[name] = value.squeeze(-1)
    return Read(node, state)


def model_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `_target_` node of a model with constructor arguments of the package.

    Raises:
        ValueError: an option that is not supported.
    """
    rates, up = list(options['encoder_rates']), list(options['decoder_rates'])
    dims = options['codebook_dim']
    dims = set(dims) if isinstance(dims, list | tuple) else {dims}
    width = options['decoder_dim']
    problems = [
        (len(dims) != 1, f'codebook_dim={options["codebook_dim"]}: only one for all codebooks'),
        (math.prod(rates) != math.prod(up), f'decoder_rates={up}: product not that of {rates}'),
        (width % 2 ** len(up) != 0, f'decoder_dim={width}: must be a multiple of 2^{len(up)}'),
    ]
    found = [message for is_wrong, message in problems if is_wrong]
    if found:
        raise ValueError(f'a DAC with these options is not supported: {"; ".join(found)}')
    dimension = options['latent_dim'] or options['encoder_dim'] * 2 ** len(rates)
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': {
            '_target_': 'audiocodec.modules.SEANetEncoder',
            **_ENCODER,
            'dimension': dimension,
            'n_filters': options['encoder_dim'],
            'ratios': rates[::-1],
        },
        'decoder': {
            '_target_': 'audiocodec.modules.SEANetDecoder',
            **_DECODER,
            'dimension': dimension,
            'n_filters': width // 2 ** len(up),
            'ratios': up,
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.DACQuantizer',
            'dimension': dimension,
            'n_q': options['n_codebooks'],
            'bins': options['codebook_size'],
            'codebook_dim': dims.pop(),
            'q_dropout': float(options['quantizer_dropout']),
        },
        'sample_rate': int(options['sample_rate']),
        'channels': 1,
    }


_WEIGHT_NORM = ('parametrizations.weight.original0', 'parametrizations.weight.original1')


def _layers(stages: int, levels: int, is_package: bool) -> Iterator[tuple[str, str]]:
    """Yield the names of corresponding layers, ours and theirs, for stages and codebooks."""
    names = (_package_names if is_package else _hf_names)(stages)
    first = 1 if is_package else 0
    per_stage = _RESIDUAL_LAYERS + 2
    for side, part in enumerate(('encoder', 'decoder')):
        start, snake, end = names.outer[side]
        yield f'{part}.model.0.conv.conv', f'{part}.{start}'
        yield f'{part}.model.{1 + per_stage * stages}', f'{part}.{snake}'
        yield f'{part}.model.{2 + per_stage * stages}.conv.conv', f'{part}.{end}'
        conv = ('conv.conv', 'convtr.convtr')[side]
        # the encoder's blocks come before the strided convolution, the decoder's after it
        offsets = ((3, 4, 0), (0, 1, 2))[side]
        snake, strided = (names.encoder, names.decoder)[side]
        for stage in range(stages):
            base = 1 + per_stage * stage
            theirs = f'{part}.{names.stage[side].format(stage + first)}'
            yield f'{part}.model.{base + offsets[0]}', f'{theirs}.{snake}'
            yield f'{part}.model.{base + offsets[1]}.{conv}', f'{theirs}.{strided}'
            for index, unit in enumerate(names.units[side]):
                ours = f'{part}.model.{base + offsets[2] + index}.block'
                for layer, name in enumerate(names.unit):
                    inner = f'{ours}.{layer}.conv.conv' if layer % 2 else f'{ours}.{layer}'
                    yield inner, f'{theirs}.{unit}.{name}'
    for level in range(levels):
        for name in ('in_proj', 'out_proj', 'codebook'):
            yield f'quantizer.levels.{level}.{name}', f'quantizer.quantizers.{level}.{name}'


def _with_weight_norm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split plain weights of convolutions into magnitude and direction."""
    split = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition('.')
        if leaf == 'weight' and not module.endswith('codebook'):
            split[f'{module}.{_WEIGHT_NORM[0]}'] = torch.norm_except_dim(value, 2, 0)
            split[f'{module}.{_WEIGHT_NORM[1]}'] = value
        else:
            split[name] = value
    return split


def save_package(model: CompressionModel, path: Path) -> list[str]:
    """Write a weights file of `descript-audio-codec`; returns notes for the report.

    Raises:
        ValueError: the model is not a DAC.
    """
    kwargs = foreign_config(model, 'descript')
    state = _foreign_state(model, _with_weight_norm(model.state_dict()), is_package=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': hook_names(state), 'metadata': {'kwargs': kwargs}}, path)
    return ['read back with the importer of audiocodec, not with descript-audio-codec']


def save_hf(model: CompressionModel, folder: Path, origin: str = '') -> list[str]:
    """Write a folder of a `transformers.DacModel`, with its feature extractor.

    Args:
        model: the model.
        folder: the folder.
        origin: a sentence on the origin of the model, for the card.

    Returns:
        Notes for the report.

    Raises:
        ValueError: the model is not a DAC, or has options that `transformers` lacks.
    """
    kwargs = foreign_config(model, 'hf')
    rates, width = (
        kwargs['encoder_rates'],
        kwargs['encoder_dim'] * 2 ** len(kwargs['encoder_rates']),
    )
    problems = []
    if kwargs['decoder_rates'] != rates[::-1]:
        problems.append(f'decoder.ratios={kwargs["decoder_rates"]}: must be encoder.ratios')
    if kwargs['latent_dim'] != width:
        problems.append(f'dimension={kwargs["latent_dim"]}: must be {width}, n_filters x 2^strides')
    refuse('hf', problems)
    config = {
        'model_type': 'dac',
        'architectures': ['DacModel'],
        **{name: kwargs[key] for key, (name, _) in _HF_NAMES.items()},
        'upsampling_ratios': rates[::-1],
        'hidden_size': width,
        'hop_length': math.prod(rates),
    }
    extractor = {
        'feature_extractor_type': 'DacFeatureExtractor',
        'feature_size': 1,
        'sampling_rate': kwargs['sample_rate'],
        'hop_length': math.prod(rates),
        'padding_side': 'right',
        'padding_value': 0.0,
        'return_attention_mask': True,
    }
    state = _foreign_state(model, model.for_inference().state_dict(), is_package=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / 'model.safetensors', {'format': 'pt'})
    for name, content in (('config.json', config), ('preprocessor_config.json', extractor)):
        (folder / name).write_text(json.dumps(content, indent=2) + '\n', 'utf-8')
    (folder / 'README.md').write_text(_CARD.format(origin=origin), 'utf-8')
    return []


_CARD = """---
library_name: transformers
pipeline_tag: feature-extraction
tags: [audio, codec, dac]
---

A neural audio codec (DAC, [arXiv 2306.06546](https://arxiv.org/abs/2306.06546)), trained with
audiocodec. {origin}

    from transformers import DacModel
    model = DacModel.from_pretrained('THIS FOLDER')
    codes = model.encode(wav).audio_codes  # wav: float [B, 1, T], whole frames
    wav_hat = model.decode(audio_codes=codes).audio_values
"""


class Loaded:
    """Model of a folder, loaded by `transformers`."""

    def __init__(self, out: Path) -> None:
        require("the format 'hf'", 'hf', 'transformers')
        transformers = hub.import_transformers()
        self._model = transformers.DacModel.from_pretrained(out, local_files_only=True).eval()

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return codes [B, K, T_frames] of a waveform [B, 1, T], and no scale."""
        missing = -wav.shape[-1] % self._model.config.hop_length
        return self._model.encode(F.pad(wav, (0, missing))).audio_codes, None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return the waveform [B, 1, T_frames * hop_length] of codes [B, K, T_frames]."""
        wav = self._model.decode(audio_codes=codes).audio_values.reshape(len(codes), 1, -1)
        # with odd strides, a few samples are missing at the end
        return F.pad(wav, (0, codes.shape[-1] * self._model.config.hop_length - wav.shape[-1]))


def foreign_config(model: CompressionModel, name: str = 'descript') -> dict[str, Any]:
    """Return the constructor arguments of the package's DAC.

    Args:
        model: the model.
        name: name of the format, for messages.

    Raises:
        ValueError: the model is not a DAC; the message says why.
    """
    node = node_of(model, name)
    parts = {'model': spell_out(node)}
    if 'encoder' in node:
        parts |= {part: spell_out(node[part]) for part in ('encoder', 'decoder', 'quantizer')}
    targets = ('EncodecModel', 'SEANetEncoder', 'SEANetDecoder', 'DACQuantizer')
    if tuple(cls.__name__ for cls, _ in parts.values()) != targets:
        refuse(name, [f'its parts are not {", ".join(targets)}'])
    required: dict[str, dict[str, Any]] = {
        'model': _MODEL,
        'encoder': _ENCODER,
        'decoder': _DECODER,
    }
    problems = [
        f'{part}.{key}={parts[part][1][key]!r}: must be {value!r}'
        for part, options in required.items()
        for key, value in options.items()
        if parts[part][1][key] != value and not _is_without_effect(key, parts[part][1])
    ]
    refuse(name, problems)
    encoder, decoder, quantizer = (parts[part][1] for part in ('encoder', 'decoder', 'quantizer'))
    return {
        'encoder_dim': encoder['n_filters'],
        'encoder_rates': list(encoder['ratios'])[::-1],
        'latent_dim': encoder['dimension'],
        'decoder_dim': decoder['n_filters'] * 2 ** len(decoder['ratios']),
        'decoder_rates': list(decoder['ratios']),
        'n_codebooks': quantizer['n_q'],
        'codebook_size': quantizer['bins'],
        'codebook_dim': quantizer['codebook_dim'],
        'quantizer_dropout': quantizer['q_dropout'],
        'sample_rate': parts['model'][1]['sample_rate'],
    }


def _is_without_effect(key: str, options: Mapping[str, Any]) -> bool:
    return key == 'trim_odd' and all(ratio % 2 == 0 for ratio in options['ratios'])


def _foreign_state(
    model: CompressionModel, state: Mapping[str, torch.Tensor], is_package: bool
) -> dict[str, torch.Tensor]:
    node = node_of(model, 'dac')
    stages = len(node['encoder']['ratios'])
    translated = {}
    for ours, theirs in _layers(stages, model.total_codebooks, is_package):
        for leaf in ('alpha', 'weight', 'bias', *_WEIGHT_NORM):
            name = f'{ours}.{leaf}'
            if name in state:
                value = state[name][..., None] if is_projection(name) else state[name]
                translated[f'{theirs}.{leaf}'] = value
    return {name: value.detach().cpu().clone().contiguous() for name, value in translated.items()}
