"""`hf`: a folder for `EncodecModel.from_pretrained` and `AutoFeatureExtractor` of `transformers`;
the extra `hf`.
"""

import contextlib
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats import hub
from audiocodec.models.formats.hf import SEANET
from audiocodec.models.optional import require
from audiocodec.models.options import Options, options_of, refuse

FORMAT = 'hf'
PAD_MODES = ('constant', 'reflect', 'replicate')


def save(model: CompressionModel, out: Path, origin: str = '') -> list[str]:
    """Write configuration, weights, feature extractor and model card into a folder, which is made.

    Args:
        model: the model.
        out: the folder.
        origin: a sentence on where the model is from, for the card.

    Returns:
        Notes for the report.

    Raises:
        ValueError: an option that `transformers` lacks, or the extra is missing.
    """
    options = options_of(model, FORMAT)
    _check(options)
    require(FORMAT, 'hf', 'transformers')
    transformers = hub.import_transformers()
    config = foreign_config(options)
    target = transformers.EncodecModel(transformers.EncodecConfig(**config))
    target.load_state_dict(foreign_state(model))
    out.mkdir(parents=True, exist_ok=True)
    with _without_progress_bars():
        target.eval().save_pretrained(out)
    with contextlib.suppress(
        OSError
    ):  # safetensors makes it for its owner alone; mounts without permissions refuse
        shutil.copymode(out / 'config.json', out / 'model.safetensors')
    transformers.EncodecFeatureExtractor(
        feature_size=model.channels,
        sampling_rate=model.sample_rate,
        padding_value=0.0,
        chunk_length_s=config['chunk_length_s'],
        overlap=config['overlap'],
    ).save_pretrained(out)
    (out / 'README.md').write_text(model_card(model, config['target_bandwidths'], origin), 'utf-8')
    if model.frame_rate.is_integer():
        return []
    return [
        f'transformers rounds the frame rate, {model.frame_rate:.3f} Hz, up to an integer: its '
        'bandwidths are '
        f'{math.ceil(model.frame_rate) / model.frame_rate:.3f} times the true ones'
    ]


class Loaded:
    """A folder as `transformers` reads it."""

    def __init__(self, out: Path) -> None:
        require(FORMAT, 'hf', 'transformers')
        transformers = hub.import_transformers()
        with _without_progress_bars():
            self._model = transformers.EncodecModel.from_pretrained(
                out, local_files_only=True
            ).eval()
        self._extractor = transformers.AutoFeatureExtractor.from_pretrained(
            out, local_files_only=True
        )
        config = self._model.config
        self._chunk = (
            None
            if config.chunk_length is None
            else math.ceil(config.chunk_length / config.hop_length)
        )

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes [B, K, T_frames] and scale [B, chunks] or None, of a waveform [B, C, T]."""
        config = self._model.config
        items = [item[0].numpy() if config.audio_channels == 1 else item.numpy() for item in wav]
        inputs = self._extractor(
            items, sampling_rate=config.sampling_rate, padding=False, return_tensors='pt'
        )
        values = inputs['input_values'].view(wav.shape)
        found = self._model.encode(
            values, None, bandwidth=config.target_bandwidths[-1], return_dict=True
        )
        frames = list(found.audio_codes)
        if found.last_frame_pad_length:
            frames[-1] = frames[-1][..., : -found.last_frame_pad_length]
        scales = [scale for scale in found.audio_scales if scale is not None]
        return torch.cat(frames, dim=-1), torch.cat(scales, dim=-1) if scales else None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Waveform [B, C, T] of codes [B, K, T_frames] and scale."""
        chunks = list(codes.split(self._chunk or codes.shape[-1], dim=-1))
        missing = chunks[0].shape[-1] - chunks[-1].shape[-1]
        chunks[-1] = torch.nn.functional.pad(chunks[-1], (0, missing))
        scales = [None] * len(chunks) if scale is None else list(scale.split(1, dim=1))
        return self._model.decode(
            torch.stack(chunks), scales, last_frame_pad_length=missing, return_dict=True
        ).audio_values


def foreign_config(options: Options) -> dict[str, Any]:
    """The arguments of `transformers.EncodecConfig`."""
    model, encoder, quantizer = options.model, options.encoder, options.quantizer
    norm = 'time_group_norm' if encoder['norm'] == 'time_group_norm' else 'weight_norm'
    return {
        **{theirs: encoder[ours] for ours, theirs in SEANET.items()},
        'upsampling_ratios': list(encoder['ratios']),
        'norm_type': norm,  # any other norm of weights is folded, and written as this one
        'use_conv_shortcut': not encoder['true_skip'],
        'trim_right_ratio': float(options.decoder['trim_right_ratio']),
        'sampling_rate': model['sample_rate'],
        'normalize': model['renormalize'],
        'chunk_length_s': model['segment_duration'],
        'overlap': None if model['segment_duration'] is None else model['overlap'],
        'codebook_size': quantizer['bins'],
        'target_bandwidths': bandwidths(options),
    }


def bandwidths(options: Options) -> list[float]:
    """The bandwidths (kbps) to choose from: of 2, 4, 8 ... and all codebooks, or of all if trained
    without dropout.

    `transformers` finds the number of codebooks from a bandwidth by a division of floats, which
    must not end below it.
    """
    number = options.quantizer['n_q']
    counts = {number}
    if options.quantizer['q_dropout']:
        counts |= {2**power for power in range(1, number.bit_length()) if 2**power <= number}
    rate = math.ceil(options.model['sample_rate'] / math.prod(options.encoder['ratios']))
    bits = rate * math.log2(options.quantizer['bins'])
    found = []
    for count in sorted(counts):
        bandwidth = count * bits / 1000
        while 1000 * bandwidth < count * bits:
            bandwidth = math.nextafter(bandwidth, math.inf)
        found.append(bandwidth)
    return found


def foreign_state(model: CompressionModel) -> dict[str, torch.Tensor]:
    """Names of weights as `transformers` has them, every normalised weight under the names of
    weight_norm.
    """
    state, folded = model.state_dict(), model.for_inference().state_dict()
    translated = {}
    for name, value in folded.items():
        module, _, leaf = name.rpartition('.')
        if module == 'quantizer.codebooks':
            continue
        renamed = re.sub(
            r'\.(conv|convtr)\.\1\.', '.conv.', re.sub(r'\.(conv|convtr)\.norm\.', '.norm.', name)
        )
        renamed = re.sub(r'^(encoder|decoder)\.model\.', r'\1.layers.', renamed)
        if leaf != 'weight' or module.endswith('.norm') or _uses_group_norm(state):
            translated[renamed] = value
            continue
        own = f'{module}.parametrizations.weight.original'
        direction = state.get(
            f'{own}1', torch.where(_magnitude(value) > 0, value, torch.ones_like(value))
        )
        prefix = renamed.removesuffix('weight')
        translated[f'{prefix}parametrizations.weight.original0'] = state.get(
            f'{own}0', _magnitude(value)
        )
        translated[f'{prefix}parametrizations.weight.original1'] = direction
    for buffer in ('embed', 'embed_avg', 'cluster_size', 'inited'):
        for level, book in enumerate(state[f'quantizer.codebooks.{buffer}']):
            translated[f'quantizer.layers.{level}.codebook.{buffer}'] = book.view(
                -1, *book.shape[1:]
            )
    return {name: value.detach().cpu().clone() for name, value in translated.items()}


def model_card(model: CompressionModel, rates: list[float], origin: str) -> str:
    """The text of `README.md`, which the Hub shows."""
    shape = '' if model.channels == 1 else ' with two channels, [2, samples]'
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- audio
- encodec
- neural-audio-codec
---

# EnCodec, {model.sample_rate / 1000:g} kHz {'mono' if model.channels == 1 else 'stereo'}

A neural audio codec (EnCodec, [arXiv 2210.13438](https://arxiv.org/abs/2210.13438)), trained
with audiocodec and exported for `transformers`. {origin}

| | |
|---|---|
| sample rate | {model.sample_rate} Hz |
| channels | {model.channels} |
| frame rate | {model.frame_rate:g} Hz |
| codebooks | {model.total_codebooks} of {model.cardinality} entries |
| bandwidths | {', '.join(f'{rate:g}' for rate in rates)} kbps |

## Use

```python
import numpy as np
from transformers import AutoFeatureExtractor, EncodecModel

name = 'this folder, or the id of the repository'
model = EncodecModel.from_pretrained(name)
extractor = AutoFeatureExtractor.from_pretrained(name)
# floats in [-1, 1]{shape}
audio = np.zeros({'24000' if model.channels == 1 else '(2, 24000)'}, dtype=np.float32)
inputs = extractor(raw_audio=audio, sampling_rate=extractor.sampling_rate, return_tensors='pt')
encoded = model.encode(inputs['input_values'], inputs['padding_mask'], bandwidth={rates[-1]!r})
decoded = model.decode(encoded.audio_codes, encoded.audio_scales, inputs['padding_mask'])
wav = decoded.audio_values[..., :audio.shape[-1]]  # [1, {model.channels}, samples]
```

`parity.json` compares codes and waveforms with those of the model that it was exported from.
"""


def _check(options: Options) -> None:
    """Refuse what `transformers.EncodecConfig` has no option for."""
    if not options.quantizer:
        refuse(FORMAT, ['quantizer=NoQuantizer: transformers holds no model without codebooks'])
    encoder, decoder = options.encoder, options.decoder
    problems = [
        f'decoder.{key}={decoder[key]!r} differs from encoder.{key}={value!r}: one value holds for '
        'both there'
        for key, value in encoder.items()
        if key != 'init' and decoder[key] != value
    ]
    if encoder['activation'] != 'ELU' or (encoder['activation_params'] or {}) not in (
        {},
        {'alpha': 1.0},
    ):
        problems.append(
            f'activation={encoder["activation"]!r} with {encoder["activation_params"]}: only ELU '
            'of '
            f'alpha 1 is possible'
        )
    if decoder['final_activation'] is not None:
        problems.append(
            f'decoder.final_activation={decoder["final_activation"]!r}: only null is possible'
        )
    if encoder['lstm'] < 1:
        problems.append(f'lstm={encoder["lstm"]}: at least one layer is needed')
    if encoder['pad_mode'] not in PAD_MODES:
        problems.append(
            f'pad_mode={encoder["pad_mode"]!r}: only {", ".join(PAD_MODES)} are possible'
        )
    if encoder['norm'] == 'time_group_norm':
        if encoder['disable_norm_outer_blocks']:
            problems.append(
                f'disable_norm_outer_blocks={encoder["disable_norm_outer_blocks"]} with '
                'time_group_norm: '
                f'only 0 is possible'
            )
        if (encoder['norm_params'] or {}) not in ({}, {'eps': 1e-5}):
            problems.append(
                f'norm_params={encoder["norm_params"]}: only the defaults of GroupNorm are possible'
            )
    if options.model['channels'] > 2:
        problems.append(f'channels={options.model["channels"]}: only 1 and 2 are possible')
    bins = options.quantizer['bins']
    if bins < 2 or bins & (bins - 1):
        problems.append(f'bins={bins}: only powers of 2 are possible')
    refuse(FORMAT, problems)


def _magnitude(weight: torch.Tensor) -> torch.Tensor:
    """What weight_norm takes out of a weight [A, ...]: the norm for each of its first dimension,
    [A, 1, ...].
    """
    return torch.norm_except_dim(weight, 2, 0)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """A model that is written in a moment needs none."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _uses_group_norm(state: dict[str, torch.Tensor]) -> bool:
    return 'encoder.model.0.conv.norm.weight' in state
