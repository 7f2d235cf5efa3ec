"""WavTokenizer (arXiv 2408.16532) of `transformers` (type wavtokenizer): reads and writes folders.

The encoder is the SEANet of EnCodec, the quantizer a single codebook, the decoder a `VocosDecoder`.
Differences that remain:

- `transformers` rounds the padding of signals longer than 2^24 samples (11 minutes at 24 kHz) to
  float32.
- With an odd hop length, its decoder returns one sample more than a hop per frame.
- The layer norms of the decoder have one scale and shift per "bandwidth". All of them are kept, but
  only the first is used, as both do by default. The authors draw one for each update.
"""

import contextlib
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.formats import hub
from audiocodec.models.formats.common.keys import translate
from audiocodec.models.formats.hf import PAD_MODES, SEANET, _without_progress_bars
from audiocodec.models.options import node_of, refuse, spell_out
from audiocodec.modules import SEANetEncoder, VocosDecoder
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.utils.errors import require

FORMAT = 'hf'
MODEL_TYPE = 'wavtokenizer'  # in `config.json`
# configuration keys of the model, and the defaults of `transformers`
DEFAULTS: dict[str, Any] = {
    'sampling_rate': 24000,
    'audio_channels': 1,
    'num_filters': 32,
    'upsampling_ratios': [6, 5, 5, 4],
    'num_residual_layers': 1,
    'dilation_growth_rate': 2,
    'compress': 2,
    'use_conv_shortcut': True,
    'use_causal_conv': False,
    'pad_mode': 'reflect',
    'norm_type': 'weight_norm',
    'kernel_size': 7,
    'last_kernel_size': 7,
    'residual_kernel_size': 3,
    'num_lstm_layers': 2,
    'hidden_size': 512,
    'codebook_size': 4096,
    'decoder_hidden_size': 768,
    'decoder_intermediate_size': 2304,
    'decoder_num_layers': 12,
    'adanorm_num_embeddings': 4,
    'decoder_attention_num_groups': 32,
    'norm_eps': 1e-6,
}
# options of the decoder: our name, name in `transformers`
DECODER = {
    'channels': 'audio_channels',
    'dimension': 'hidden_size',
    'dim': 'decoder_hidden_size',
    'intermediate_dim': 'decoder_intermediate_size',
    'num_layers': 'decoder_num_layers',
    'num_groups': 'decoder_attention_num_groups',
    'adanorm_num_embeddings': 'adanorm_num_embeddings',
    'norm_eps': 'norm_eps',
}
CODEBOOK = re.compile(r'quantizer\.layers\.(\d+)\.codebook\.(embed|embed_avg|cluster_size|inited)')
_BUFFERS = ('embed', 'embed_avg', 'cluster_size', 'inited')


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
    size = config.get('codebook_dim')
    config = {**DEFAULTS, **{key: value for key, value in config.items() if key in DEFAULTS}}
    if size not in (None, config['hidden_size']):
        raise ValueError(
            f'codebook_dim={size} differs from hidden_size={config["hidden_size"]}: codebooks '
            'with a projection are not supported'
        )
    return make_node(
        encoder={
            **{ours: config[theirs] for ours, theirs in SEANET.items()},
            'true_skip': not config['use_conv_shortcut'],
        },
        decoder={ours: config[theirs] for ours, theirs in DECODER.items()},
        bins=config['codebook_size'],
        sample_rate=config['sampling_rate'],
    )


def make_node(
    encoder: Mapping[str, Any], decoder: Mapping[str, Any], bins: int, sample_rate: int
) -> dict[str, Any]:
    """Return the node of a model with one codebook; it completes what encoder and decoder share."""
    hop_length = math.prod(encoder['ratios'])
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': {
            '_target_': 'audiocodec.modules.SEANetEncoder',
            'activation': 'ELU',
            'activation_params': {'alpha': 1.0},
            **encoder,
            'ratios': list(encoder['ratios']),
        },
        'decoder': {
            '_target_': 'audiocodec.modules.VocosDecoder',
            'hop_length': hop_length,
            'n_fft': 4 * hop_length,
            **decoder,
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': encoder['dimension'],
            'n_q': 1,
            'bins': bins,
            'kmeans_iters': 200,
        },
        'sample_rate': sample_rate,
        'channels': encoder['channels'],
    }


def model_state(weights: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Translate the names of the weights to ours.

    Raises:
        ValueError: a value is not a tensor.
    """
    renamed = {}
    for name, value in weights.items():
        name = name.removeprefix('encoder_model.')
        match = re.fullmatch(r'encoder\.layers\.(\d+)\.(.*)', name)
        if match:
            # here, a convolution and its norm are in a module of their own
            rest = re.sub(r'(^|\.)(conv|norm)\.', r'\g<1>conv.\g<2>.', match[2])
            name = f'encoder.model.{match[1]}.{rest}'
        name = re.sub(r'^quantizer\.codebook\.', 'quantizer.layers.0.codebook.', name)
        renamed[re.sub(r'^backbone\.|^(?=head\.)', 'decoder.', name)] = value
    return translate(renamed, CODEBOOK)


# ---- export --------------------------------------------------------------------------------------


def save(model: CompressionModel, out: Path, origin: str = '') -> list[str]:
    """Write configuration, weights, feature extractor and model card into a new folder.

    Args:
        model: the model.
        out: the folder.
        origin: a sentence on the origin of the model, for the card.

    Returns:
        Notes for the report.

    Raises:
        ValueError: `transformers` does not support an option or lacks WavTokenizer, or the extra is
            missing.
    """
    config = foreign_config(model)
    transformers = _transformers()
    target = transformers.WavTokenizerModel(transformers.WavTokenizerConfig(**config))
    target.load_state_dict(foreign_state(model))
    out.mkdir(parents=True, exist_ok=True)
    with _without_progress_bars():
        target.eval().save_pretrained(out)
    # safetensors makes the file readable for its owner only; some mounts do not support permissions
    with contextlib.suppress(OSError):
        shutil.copymode(out / 'config.json', out / 'model.safetensors')
    transformers.WavTokenizerFeatureExtractor(
        sampling_rate=model.sample_rate, hop_length=model.hop_length
    ).save_pretrained(out)
    (out / 'README.md').write_text(_card(model, origin), 'utf-8')
    if model.hop_length % 2 == 0:
        return []
    return ['with an odd hop length, transformers decodes one sample more than a hop per frame']


class Loaded:
    """Model of a folder, loaded by `transformers`."""

    def __init__(self, out: Path) -> None:
        transformers = _transformers()
        with _without_progress_bars():
            self._model = transformers.WavTokenizerModel.from_pretrained(
                out, local_files_only=True
            ).eval()

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return codes [B, 1, T_frames] of a waveform [B, 1, T]; there is no scale."""
        return self._model.encode(wav).audio_codes, None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return the waveform [B, 1, T_frames * hop_length] of codes [B, 1, T_frames]."""
        wav: torch.Tensor = self._model.decode(codes).audio_values
        return wav[..., : codes.shape[-1] * self._model.hop_length]


def _transformers() -> Any:
    require(f'the format {FORMAT!r}', 'hf', 'transformers')
    transformers = hub.import_transformers()
    if not hasattr(transformers, 'WavTokenizerModel'):
        raise ValueError(
            f'transformers {transformers.__version__} has no WavTokenizer: upgrade it to 5.24 or '
            'later'
        )
    return transformers


def foreign_config(model: CompressionModel) -> dict[str, Any]:
    """Return the arguments of `transformers.WavTokenizerConfig`.

    Raises:
        ValueError: the model has an option without a counterpart; the message lists all of them.
    """
    found = spell_out(node_of(model, FORMAT))
    classes = {
        'encoder': SEANetEncoder,
        'decoder': VocosDecoder,
        'quantizer': ResidualVectorQuantizer,
    }
    parts = {name: spell_out(found[1][name]) for name in classes if name in found[1]}
    if found[0] is not EncodecModel or {name: part[0] for name, part in parts.items()} != classes:
        refuse(
            FORMAT,
            [
                'as a WavTokenizer, it needs an EncodecModel of SEANetEncoder, '
                'ResidualVectorQuantizer and VocosDecoder'
            ],
        )
    encoder, decoder, quantizer = (parts[name][1] for name in classes)
    refuse(FORMAT, _problems(found[1], encoder, decoder, quantizer))
    norm = 'time_group_norm' if encoder['norm'] == 'time_group_norm' else 'weight_norm'
    return {
        **{theirs: decoder[ours] for ours, theirs in DECODER.items()},
        **{theirs: encoder[ours] for ours, theirs in SEANET.items()},
        'upsampling_ratios': list(encoder['ratios']),
        'norm_type': norm,  # other weight norms are folded, and written as weight_norm
        'use_conv_shortcut': not encoder['true_skip'],
        'codebook_size': quantizer['bins'],
        'codebook_dim': encoder['dimension'],
        # a plain layer norm is written as one with a single condition
        'adanorm_num_embeddings': decoder['adanorm_num_embeddings'] or 1,
        'sampling_rate': found[1]['sample_rate'],
    }


def _problems(
    model: Mapping[str, Any],
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    quantizer: Mapping[str, Any],
) -> list[str]:
    """Return what `transformers.WavTokenizerConfig` has no option for."""
    n_fft = 4 * decoder['hop_length']
    needed = [
        ('channels', model['channels'], (1,)),
        ('renormalize', model['renormalize'], (False,)),
        ('segment_duration', model['segment_duration'], (None,)),
        ('quantizer.n_q', quantizer['n_q'], (1,)),
        ('encoder.activation', encoder['activation'], ('ELU',)),
        ('encoder.activation_params', encoder['activation_params'] or {}, ({}, {'alpha': 1.0})),
        ('encoder.norm_params', encoder['norm_params'] or {}, ({}, {'eps': 1e-5})),
        ('encoder.pad_mode', encoder['pad_mode'], PAD_MODES),
        ('decoder.attention', decoder['attention'], (True,)),
        ('decoder.padding', decoder['padding'], ('same',)),
        ('decoder.n_fft', decoder['n_fft'], (None, n_fft)),
    ]
    problems = [
        f'{key}={value!r}: only {" or ".join(map(repr, accepted))} is supported'
        for key, value, accepted in needed
        if value not in accepted
    ]
    if encoder['lstm'] < 1:
        problems.append(f'encoder.lstm={encoder["lstm"]}: at least one layer is needed')
    if encoder['norm'] == 'time_group_norm' and encoder['disable_norm_outer_blocks']:
        problems.append(
            f'encoder.disable_norm_outer_blocks={encoder["disable_norm_outer_blocks"]} with '
            'time_group_norm: only 0 is supported'
        )
    return problems


def foreign_state(model: CompressionModel) -> dict[str, torch.Tensor]:
    """Translate weights to the names of `transformers`, with all weight norms as weight_norm."""
    state = model.state_dict()
    uses_group_norm = 'encoder.model.0.conv.norm.weight' in state
    translated = {}
    for name, value in model.for_inference().state_dict().items():
        if name.startswith('decoder.'):
            renamed, value = _decoder_weight(name.removeprefix('decoder.'), value)
            translated[renamed] = value
        elif name.startswith('encoder.'):
            renamed = re.sub(r'\.conv\.(conv|norm)\.', r'.\1.', name)
            renamed = renamed.replace('encoder.model.', 'encoder_model.encoder.layers.', 1)
            if name.endswith('.weight') and not uses_group_norm:
                translated.update(_as_weight_norm(renamed, value, state, name))
            else:
                translated[renamed] = value
    for buffer in _BUFFERS:
        book = state[f'quantizer.codebooks.{buffer}']
        translated[f'encoder_model.quantizer.codebook.{buffer}'] = (
            book if buffer == 'inited' else book[0]
        )
    return {name: value.detach().cpu().clone() for name, value in translated.items()}


def _decoder_weight(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Translate a weight of the decoder; a plain layer norm becomes one with a single condition."""
    if name.startswith('head.'):
        return name, value
    match = re.fullmatch(r'((?:convnext\.\d+\.)?norm)\.(weight|bias)', name)
    if match:
        kind = {'weight': 'scale', 'bias': 'shift'}[match[2]]
        return f'backbone.{match[1]}.{kind}.weight', value[None]
    return f'backbone.{name}', value


def _as_weight_norm(
    renamed: str, value: torch.Tensor, state: Mapping[str, torch.Tensor], name: str
) -> dict[str, torch.Tensor]:
    """Return magnitude and direction of a weight; those of the model, if it has them."""
    own = f'{name.removesuffix("weight")}parametrizations.weight.original'
    magnitude = torch.norm_except_dim(value, 2, 0)
    # a folded weight is its own direction; the direction of a zero weight must not be zero
    direction = torch.where(magnitude > 0, value, torch.ones_like(value))
    prefix = f'{renamed.removesuffix("weight")}parametrizations.weight.original'
    return {
        f'{prefix}0': state.get(f'{own}0', magnitude),
        f'{prefix}1': state.get(f'{own}1', direction),
    }


def _card(model: CompressionModel, origin: str) -> str:
    """Return the model card: properties of the model, and how to use it."""
    bits = model.bandwidth_of(1)
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- audio
- wavtokenizer
- neural-audio-codec
---

# WavTokenizer, {model.sample_rate / 1000:g} kHz

A neural audio codec with one codebook (WavTokenizer,
[arXiv 2408.16532](https://arxiv.org/abs/2408.16532)), trained with audiocodec and exported for
`transformers`. {origin}

| | |
|---|---|
| sample rate | {model.sample_rate} Hz |
| codes | {model.frame_rate:g} per second |
| entries of the codebook | {model.cardinality} |
| bandwidth | {bits:g} kbps |

## Use

```python
import torch
from transformers import WavTokenizerModel

model = WavTokenizerModel.from_pretrained('this folder, or the id of the repository')
wav = torch.zeros(1, 1, {model.sample_rate})  # floats in [-1, 1] at {model.sample_rate} Hz
codes = model.encode(wav).audio_codes  # [1, 1, frames]
decoded = model.decode(codes).audio_values[..., :wav.shape[-1]]
```

`parity.json` compares codes and waveforms with those of the model that it was exported from.
"""
