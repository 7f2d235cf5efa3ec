"""Writes folders of Mimi models for `transformers`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.formats import hub
from audiocodec.models.formats.mimi import (
    CODEBOOK,
    LAYER,
    PROJECTIONS,
    QUANTIZER,
    SEANET,
    TRANSFORMER,
    entries_of,
)
from audiocodec.models.options import node_of, refuse, spell_out
from audiocodec.modules import (
    SEANetDecoder,
    SEANetEncoder,
    Transformer,
    TransformerDecoder,
    TransformerEncoder,
)
from audiocodec.quantization import SplitResidualVectorQuantizer

FORMAT = 'hf'
# parts of the model by their place in its node
PARTS: dict[str, type] = {
    'model': EncodecModel,
    'encoder': TransformerEncoder,
    'encoder.encoder': SEANetEncoder,
    'encoder.transformer': Transformer,
    'decoder': TransformerDecoder,
    'decoder.decoder': SEANetDecoder,
    'decoder.transformer': Transformer,
    'quantizer': SplitResidualVectorQuantizer,
}


def save(model: CompressionModel, out: Path, origin: str = '') -> list[str]:
    """Write configuration, weights, feature extractor and model card into a new folder.

    `transformers` is not needed.

    Args:
        model: the model.
        out: the folder.
        origin: a sentence on the origin of the model, for the card.

    Returns:
        Notes for the report.

    Raises:
        ValueError: `transformers` does not support an option.
    """
    config = foreign_config(model)
    state = foreign_state(model)
    out.mkdir(parents=True, exist_ok=True)
    extractor = {
        'feature_extractor_type': 'EncodecFeatureExtractor',
        'feature_size': model.channels,
        'padding_side': 'right',
        'padding_value': 0.0,
        'return_attention_mask': True,
        'sampling_rate': model.sample_rate,
    }
    for name, content in ((hub.CONFIG, config), ('preprocessor_config.json', extractor)):
        (out / name).write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', 'utf-8')
    save_file(state, out / hub.WEIGHTS[0], metadata={'format': 'pt'})
    (out / 'README.md').write_text(_card(model, origin), 'utf-8')
    return []


class Loaded:
    """Model of a folder, loaded by `transformers`."""

    def __init__(self, out: Path) -> None:
        self._model: Any = hub.build_with_transformers('MimiModel', out).eval()

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return codes [B, K, T_frames] of a waveform [B, C, T], and no scale."""
        return self._model.encode(wav, return_dict=True).audio_codes, None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: None = None) -> torch.Tensor:
        """Return the waveform [B, C, T] of codes [B, K, T_frames]."""
        return self._model.decode(codes, return_dict=True).audio_values


def foreign_config(model: CompressionModel) -> dict[str, Any]:
    """Return the content of `config.json`.

    Raises:
        ValueError: `transformers` does not support an option.
    """
    options = _options(model)
    seanet, transformer, quantizer = (
        options[part] for part in ('encoder.encoder', 'encoder.transformer', 'quantizer')
    )
    size = quantizer['codebook_dimension'] or quantizer['dimension']
    groups = options['decoder']['upsample_groups']
    heads = transformer['num_heads']
    return {
        'model_type': 'mimi',
        'architectures': ['MimiModel'],
        **{theirs: seanet[ours] for ours, theirs in SEANET.items()},
        **{theirs: transformer[ours] for ours, theirs in TRANSFORMER.items()},
        **{theirs: quantizer[ours] for ours, theirs in QUANTIZER.items()},
        'upsampling_ratios': list(seanet['ratios']),
        'intermediate_size': transformer['hidden_dimension'] or 4 * transformer['dimension'],
        'num_key_value_heads': heads,
        'head_dim': transformer['dimension'] // heads,
        'use_conv_shortcut': not seanet['true_skip'],
        'trim_right_ratio': float(options['decoder']['trim_right_ratio']),
        'upsample_groups': quantizer['dimension'] if groups is None else groups,
        'codebook_dim': size,
        'vector_quantization_hidden_dimension': size,
        'rope_theta': float(transformer['max_period']),
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': float(transformer['max_period']),
        },
        'sampling_rate': model.sample_rate,
        'frame_rate': model.frame_rate,
        'hidden_act': 'gelu',
        'norm_eps': 1e-5,
    }


def foreign_state(model: CompressionModel) -> dict[str, torch.Tensor]:
    """Translate weights to the names of `transformers`; normalized weights become plain ones."""
    statistics = model.state_dict()
    translated = {}
    for name, value in model.for_inference().state_dict().items():
        module, _, leaf = name.rpartition('.')
        if module.endswith('rvq.codebooks'):
            prefix = f'quantizer.{module.split(".")[1]}_residual_vector_quantizer.layers'
            for level, buffers in enumerate(_foreign_codebooks(statistics, module)):
                for buffer, part in buffers.items():
                    translated[f'{prefix}.{level}.codebook.{buffer}'] = part
        elif module.endswith('.attention.in_proj'):
            prefix = module.removesuffix('attention.in_proj').replace(
                '.transformer', '_transformer'
            )
            for projection, part in zip(PROJECTIONS, value.chunk(3)):
                translated[f'{prefix}{projection}.{leaf}'] = part
        else:
            translated[_foreign_name(module, leaf)] = value
    return {name: value.detach().cpu().clone() for name, value in translated.items()}


def _foreign_name(module: str, leaf: str) -> str:
    """Return the name in `transformers` of a weight that is one tensor there, too."""
    if match := re.fullmatch(r'(encoder|decoder)\.transformer\.layers\.(\d+)\.(.*)', module):
        part, index, inner = match.groups()
        return f'{part}_transformer.layers.{index}.{LAYER[inner]}.{leaf}'
    name = re.sub(r'\.(conv|convtr)\.\1\.', '.conv.', f'{module}.{leaf}')
    name = re.sub(r'^(encoder|decoder)\.\1\.model\.', r'\1.layers.', name)
    name = re.sub(r'^(encoder|decoder)\.(downsample|upsample)\.', r'\2.', name)
    return re.sub(r'^quantizer\.(\w+)\.', r'quantizer.\1_residual_vector_quantizer.', name)


def _foreign_codebooks(
    state: Mapping[str, torch.Tensor], book: str
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the buffers of each codebook, such that its entries are exactly ours.

    Where sum / usage is not our entry, because ours are smoothed, the usage is rounded to a power
    of two and the sum recomputed: no bit is lost.
    """
    for level, embed in enumerate(state[f'{book}.embed']):
        sums, usage, inited = (state.get(f'{book}.{name}') for name in CODEBOOK)
        usage = torch.ones_like(embed[:, 0]) if usage is None else usage[level]
        sums = None if sums is None else sums[level]
        if sums is None or not torch.equal(entries_of(sums, usage), embed):
            usage = usage.clamp(min=2**-16).log2().round().exp2()
            sums = embed * usage[:, None]
        flag = torch.ones(1, device=embed.device) if inited is None else inited[level].view(1)
        yield dict(zip(CODEBOOK.values(), (sums, usage, flag)))


def _options(model: CompressionModel) -> dict[str, dict[str, Any]]:
    """Return the constructor arguments of the model's parts, by their place, defaults included.

    Raises:
        ValueError: `transformers` has no such part or option.
    """
    nodes: dict[str, Any] = {'model': node_of(model, FORMAT)}
    problems: list[str] = []
    options: dict[str, dict[str, Any]] = {}
    for place, expected in PARTS.items():
        if place != 'model':
            *outer, name = place.split('.')
            nodes[place] = options['.'.join(outer) or 'model'].get(name)
        node = nodes[place]
        found, options[place] = spell_out(node) if isinstance(node, Mapping) else (None, {})
        if found is not expected:
            target = node['_target_'] if isinstance(node, Mapping) else node
            refuse(FORMAT, [f'{place}._target_={target}, only {expected.__name__} is supported'])
    problems += _differences(options)
    accepted: dict[str, dict[str, tuple[Any, ...]]] = {
        'model': {
            'channels': (1, 2),
            'renormalize': (False,),
            'segment_duration': (None,),
            'output_sample_rate': (None, model.sample_rate),
        },
        'encoder': {'pad_mode': ('replicate',)},
        'encoder.encoder': {
            'activation': ('ELU',),
            'activation_params': (None, {}, {'alpha': 1.0}),
            'norm': ('none', 'weight_norm', 'spectral_norm'),
            'lstm': (0,),
            'pad_input': (False,),
            'pad_mode': ('constant', 'reflect', 'replicate'),
        },
        'decoder.decoder': {
            'final_activation': (None,),
            'trim_right_ratio': (options['decoder']['trim_right_ratio'],),
        },
    }
    problems += [
        f'{place}.{key}={options[place][key]!r}: only '
        f'{" or ".join("null" if value is None else repr(value) for value in values)} is supported'
        for place, keys in accepted.items()
        for key, values in keys.items()
        if options[place][key] not in values
    ]
    if options['encoder']['stride'] < 2:
        problems.append(f'encoder.stride={options["encoder"]["stride"]}: at least 2 is needed')
    if options['encoder.transformer']['layer_scale'] is None:
        problems.append('transformer.layer_scale=null: transformers always has these factors')
    quantizer = options['quantizer']
    if quantizer['codebook_dimension'] == quantizer['dimension']:
        problems.append(
            f'quantizer.codebook_dimension={quantizer["dimension"]}, that of the latents: '
            'transformers would have no projections'
        )
    if quantizer['bins'] & (quantizer['bins'] - 1):
        problems.append(f'quantizer.bins={quantizer["bins"]}: only powers of 2 are supported')
    refuse(FORMAT, problems)
    return options


def _differences(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return problems: options of encoder and decoder for which `transformers` has one value."""
    pairs = [
        ('encoder', 'decoder', {'stride'}),
        ('encoder.encoder', 'decoder.decoder', options['encoder.encoder'].keys() - {'init'}),
        ('encoder.transformer', 'decoder.transformer', options['encoder.transformer'].keys()),
    ]
    return [
        f'{theirs}.{key}={options[theirs][key]!r} differs from {ours}.{key}='
        f'{options[ours][key]!r}: transformers has one value for both'
        for ours, theirs, keys in pairs
        for key in sorted(keys & options[theirs].keys())
        if options[ours][key] != options[theirs][key]
    ]


def _card(model: CompressionModel, origin: str) -> str:
    """Return the model card: properties of the model, and how to use it."""
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- audio
- mimi
- neural-audio-codec
---

# Mimi, {model.sample_rate / 1000:g} kHz, {model.frame_rate:g} Hz

A neural audio codec (Mimi, [arXiv 2410.00037](https://arxiv.org/abs/2410.00037)), trained with
audiocodec and exported for `transformers`. {origin}

{model.total_codebooks} codebooks of {model.cardinality} entries,
{model.bandwidth_of(model.total_codebooks):g} kbps, {model.channels} channel(s).

```python
import torch
from transformers import MimiModel

model = MimiModel.from_pretrained('this folder, or the id of the repository')
wav = torch.zeros(1, {model.channels}, {model.sample_rate})  # floats in [-1, 1]
codes = model.encode(wav).audio_codes
wav_hat = model.decode(codes).audio_values
```
"""
