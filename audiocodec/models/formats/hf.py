"""EnCodec models of `transformers` (type encodec): reads and writes their folders.

`config.json` is translated key by key, weights by name.
"""

import contextlib
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats import hub
from audiocodec.models.formats.common.hf_card import model_card
from audiocodec.models.formats.common.keys import translate
from audiocodec.models.options import Options, options_of, refuse
from audiocodec.utils.errors import require

# configuration keys of the model, and the defaults of `transformers`
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
# options of encoder and decoder: our name, name in `transformers`
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
        config: content of `config.json`.
        levels: number of codebooks among the weights, None if unknown. Older versions computed it
            differently.

    Raises:
        ValueError: an option that is not supported.
    """
    config = {**DEFAULTS, **{key: value for key, value in config.items() if key in DEFAULTS}}
    if config['codebook_dim'] not in (None, config['hidden_size']):
        raise ValueError(
            f'codebook_dim={config["codebook_dim"]} differs from '
            f'hidden_size={config["hidden_size"]}: codebooks with a projection are not supported'
        )
    if config['chunk_length_s'] is not None and config['overlap'] is None:
        raise ValueError(
            f'chunk_length_s={config["chunk_length_s"]} needs an overlap (a fraction of it), got '
            'null'
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
            # a model with several bandwidths was trained with all of them
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
        node: `_target_` node of the model.

    Raises:
        ValueError: a value is not a tensor, or codebooks are missing.
    """
    transposed = _transposed_layers(node['decoder'])
    renamed = {}
    for name, value in weights.items():
        match = _LAYER.fullmatch(name)
        if match:
            part, index, rest = match.groups()
            conv = 'convtr' if part == 'decoder' and int(index) in transposed else 'conv'
            # here, a convolution and its norm are in a module of their own
            rest = re.sub(r'(^|\.)conv\.', rf'\g<1>{conv}.{conv}.', rest)
            rest = re.sub(r'(^|\.)norm\.', rf'\g<1>{conv}.norm.', rest)
            name = f'{part}.model.{index}.{rest}'
        renamed[name] = value
    return translate(renamed, _CODEBOOK)


def _transposed_layers(decoder: Mapping[str, Any]) -> list[int]:
    """Return the layer indices of the decoder's transposed convolutions.

    They follow a convolution, the LSTM (if any), and an activation each.
    """
    stage = 2 + decoder['n_residual_layers']
    return [2 + bool(decoder['lstm']) + stage * index for index in range(len(decoder['ratios']))]


def _n_q(config: Mapping[str, Any], levels: int | None) -> int:
    """Return the number of codebooks at the highest bandwidth, by the formula of `transformers`."""
    frame_rate = math.ceil(config['sampling_rate'] / math.prod(config['upsampling_ratios']))
    # up to version 4.53, a code always counted as 10 bits
    numbers = [
        int(1000 * config['target_bandwidths'][-1] // (frame_rate * bits))
        for bits in (math.ceil(math.log2(config['codebook_size'])), 10)
    ]
    return levels if levels is not None and levels in numbers else numbers[0]


FORMAT = 'hf'
PAD_MODES = ('constant', 'reflect', 'replicate')


def save(model: CompressionModel, out: Path, origin: str = '') -> list[str]:
    """Write configuration, weights, feature extractor and model card into a new folder.

    Args:
        model: the model.
        out: the folder.
        origin: a sentence on the origin of the model, for the card.

    Returns:
        Notes for the report.

    Raises:
        ValueError: `transformers` does not support an option, or the extra is missing.
    """
    options = options_of(model, FORMAT)
    _check(options)
    require(f'the format {FORMAT!r}', 'hf', 'transformers')
    transformers = hub.import_transformers()
    config = foreign_config(options)
    target = transformers.EncodecModel(transformers.EncodecConfig(**config))
    target.load_state_dict(foreign_state(model))
    out.mkdir(parents=True, exist_ok=True)
    with _without_progress_bars():
        target.eval().save_pretrained(out)
    # safetensors makes the file readable for its owner only; some mounts do not support permissions
    with contextlib.suppress(OSError):
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
        f'bandwidths are {math.ceil(model.frame_rate) / model.frame_rate:.3f} times the true ones'
    ]


class Loaded:
    """Model of a folder, loaded by `transformers`."""

    def __init__(self, out: Path) -> None:
        require(f'the format {FORMAT!r}', 'hf', 'transformers')
        transformers = hub.import_transformers()
        with _without_progress_bars():
            self._model = transformers.EncodecModel.from_pretrained(
                out, local_files_only=True
            ).eval()
        self._extractor = transformers.AutoFeatureExtractor.from_pretrained(
            out, local_files_only=True
        )
        config = self._model.config
        self._chunk = None  # frames
        if config.chunk_length is not None:
            self._chunk = math.ceil(config.chunk_length / config.hop_length)

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes [B, K, T_frames] and scale [B, chunks] or None, of a waveform [B, C, T]."""
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
        """Return the waveform [B, C, T] of codes [B, K, T_frames] and scale."""
        chunks = list(codes.split(self._chunk or codes.shape[-1], dim=-1))
        missing = chunks[0].shape[-1] - chunks[-1].shape[-1]
        chunks[-1] = torch.nn.functional.pad(chunks[-1], (0, missing))
        scales = [None] * len(chunks) if scale is None else list(scale.split(1, dim=1))
        return self._model.decode(
            torch.stack(chunks), scales, last_frame_pad_length=missing, return_dict=True
        ).audio_values


def foreign_config(options: Options) -> dict[str, Any]:
    """Return the arguments of `transformers.EncodecConfig`."""
    model = options.model
    encoder = options.encoder
    quantizer = options.quantizer
    norm = 'time_group_norm' if encoder['norm'] == 'time_group_norm' else 'weight_norm'
    return {
        **{theirs: encoder[ours] for ours, theirs in SEANET.items()},
        'upsampling_ratios': list(encoder['ratios']),
        'norm_type': norm,  # other weight norms are folded, and written as weight_norm
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
    """Return the selectable bandwidths (kbps): of 2, 4, 8 ... and all codebooks.

    Without quantizer dropout, only that of all codebooks. `transformers` computes the number of
    codebooks from a bandwidth by a floating-point division, which must not end up just below it.
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
    """Translate weights to the names of `transformers`, with all weight norms as weight_norm."""
    state = model.state_dict()
    folded = model.for_inference().state_dict()
    translated = {}
    for name, value in folded.items():
        module, _, leaf = name.rpartition('.')
        if module == 'quantizer.codebooks':
            continue
        renamed = re.sub(r'\.(conv|convtr)\.norm\.', '.norm.', name)
        renamed = re.sub(r'\.(conv|convtr)\.\1\.', '.conv.', renamed)
        renamed = re.sub(r'^(encoder|decoder)\.model\.', r'\1.layers.', renamed)
        if leaf != 'weight' or module.endswith('.norm') or _uses_group_norm(state):
            translated[renamed] = value
            continue
        # a folded weight is its own direction; the direction of a zero weight must not be zero
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


def _check(options: Options) -> None:
    """Refuse what `transformers.EncodecConfig` has no option for."""
    if not options.quantizer:
        refuse(FORMAT, ['quantizer=NoQuantizer: transformers needs codebooks'])
    encoder = options.encoder
    decoder = options.decoder
    problems = [
        f'decoder.{key}={decoder[key]!r} differs from encoder.{key}={value!r}: transformers has '
        'one value for both'
        for key, value in encoder.items()
        if key != 'init' and decoder.get(key, value) != value
    ]
    if encoder['pad_input']:
        problems.append('encoder.pad_input=True: only false is supported')
    if encoder['activation'] != 'ELU' or (encoder['activation_params'] or {}) not in (
        {},
        {'alpha': 1.0},
    ):
        problems.append(
            f'activation={encoder["activation"]!r} with {encoder["activation_params"]}: only ELU '
            'with alpha 1 is supported'
        )
    if decoder['final_activation'] is not None:
        problems.append(
            f'decoder.final_activation={decoder["final_activation"]!r}: only null is supported'
        )
    if encoder['lstm'] < 1:
        problems.append(f'lstm={encoder["lstm"]}: at least one layer is needed')
    if encoder['pad_mode'] not in PAD_MODES:
        problems.append(
            f'pad_mode={encoder["pad_mode"]!r}: only {", ".join(PAD_MODES)} are supported'
        )
    if encoder['norm'] == 'time_group_norm':
        if encoder['disable_norm_outer_blocks']:
            problems.append(
                f'disable_norm_outer_blocks={encoder["disable_norm_outer_blocks"]} with '
                'time_group_norm: only 0 is supported'
            )
        if (encoder['norm_params'] or {}) not in ({}, {'eps': 1e-5}):
            problems.append(
                f'norm_params={encoder["norm_params"]}: only the defaults of GroupNorm are '
                'supported'
            )
    if options.model['channels'] > 2:
        problems.append(f'channels={options.model["channels"]}: only 1 and 2 are supported')
    bins = options.quantizer['bins']
    if bins < 2 or bins & (bins - 1):
        problems.append(f'bins={bins}: only powers of 2 are supported')
    refuse(FORMAT, problems)


def _magnitude(weight: torch.Tensor) -> torch.Tensor:
    """Return the magnitude of weight_norm for a weight [A, ...]: norms [A, 1, ...]."""
    return torch.norm_except_dim(weight, 2, 0)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers: a model loads in a moment."""
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
