"""Mimi models of `transformers` (type mimi): reads their folders; `mimi_export` writes them.

Their files have the names of the first versions, whatever the version that wrote them: since 5.x,
`transformers` renames the weights while it loads and saves.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.formats import hub

# configuration keys of the model, and the defaults of `transformers`
DEFAULTS: dict[str, Any] = {
    'sampling_rate': 24000,
    'audio_channels': 1,
    'hidden_size': 512,
    'num_filters': 64,
    'num_residual_layers': 1,
    'upsampling_ratios': [8, 6, 5, 4],
    'kernel_size': 7,
    'last_kernel_size': 3,
    'residual_kernel_size': 3,
    'dilation_growth_rate': 2,
    'use_causal_conv': True,
    'pad_mode': 'constant',
    'compress': 2,
    'trim_right_ratio': 1.0,
    'codebook_size': 2048,
    'codebook_dim': 256,
    'num_quantizers': 32,
    'use_conv_shortcut': False,
    'vector_quantization_hidden_dimension': 256,
    'num_semantic_quantizers': 1,
    'upsample_groups': 512,
    'num_hidden_layers': 8,
    'intermediate_size': 2048,
    'num_attention_heads': 8,
    'num_key_value_heads': None,
    'head_dim': None,
    'hidden_act': 'gelu',
    'norm_eps': 1e-5,
    'sliding_window': 250,
    'layer_scale_initial_scale': 0.01,
    'attention_bias': False,
    'rope_theta': 10000.0,
    'rope_parameters': None,
    'frame_rate': None,
    '_frame_rate': None,
}
# our name, name in `transformers`
SEANET = {
    'channels': 'audio_channels',
    'dimension': 'hidden_size',
    'n_filters': 'num_filters',
    'n_residual_layers': 'num_residual_layers',
    'ratios': 'upsampling_ratios',
    'kernel_size': 'kernel_size',
    'last_kernel_size': 'last_kernel_size',
    'residual_kernel_size': 'residual_kernel_size',
    'dilation_base': 'dilation_growth_rate',
    'causal': 'use_causal_conv',
    'pad_mode': 'pad_mode',
    'compress': 'compress',
}
TRANSFORMER = {
    'dimension': 'hidden_size',
    'num_layers': 'num_hidden_layers',
    'num_heads': 'num_attention_heads',
    'hidden_dimension': 'intermediate_size',
    'context': 'sliding_window',
    'layer_scale': 'layer_scale_initial_scale',
}
QUANTIZER = {
    'dimension': 'hidden_size',
    'n_q': 'num_quantizers',
    'n_q_semantic': 'num_semantic_quantizers',
    'bins': 'codebook_size',
}
# modules of a transformer layer
LAYER = {
    'norm1': 'input_layernorm',
    'norm2': 'post_attention_layernorm',
    'linear1': 'mlp.fc1',
    'linear2': 'mlp.fc2',
    'attention.out_proj': 'self_attn.o_proj',
    'scale1': 'self_attn_layer_scale',
    'scale2': 'mlp_layer_scale',
}
PROJECTIONS = [f'self_attn.{name}_proj' for name in 'qkv']
EPSILON = 1e-5  # smallest usage of an entry by which its sum is divided
# buffers of a codebook: our name, name in `transformers`
CODEBOOK = {'embed_avg': 'embed_sum', 'cluster_size': 'cluster_usage', 'inited': 'initialized'}
_BOOK = re.compile(
    r'quantizer\.(semantic|acoustic)_residual_vector_quantizer\.layers\.(\d+)\.codebook\.(\w+)'
)
_SEANET = re.compile(r'(encoder|decoder)\.layers\.(\d+)\.(.*)')
_LAYER = re.compile(r'(encoder|decoder)_transformer\.layers\.(\d+)\.(.*)\.(\w+)')


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Translate a folder with `config.json` and weights.

    Returns:
        The `_target_` node of an `EncodecModel`, and its weights.

    Raises:
        ValueError: unreadable, or an option that is not supported.
    """
    node = model_config(hub.read_config(folder))
    return node, model_state(hub.read_weights(folder), node)


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a configuration to the `_target_` node of an `EncodecModel`.

    Args:
        config: content of `config.json`.

    Raises:
        ValueError: an option that is not supported.
    """
    config = {**DEFAULTS, **{key: value for key, value in config.items() if key in DEFAULTS}}
    rope = {'rope_theta': config['rope_theta'], **(config['rope_parameters'] or {})}
    _check_config(config, rope)
    seanet = {
        'activation': 'ELU',
        'norm': 'none',
        'lstm': 0,
        **{ours: config[theirs] for ours, theirs in SEANET.items()},
        'true_skip': not config['use_conv_shortcut'],
    }
    transformer = {
        '_target_': 'audiocodec.modules.Transformer',
        **{ours: config[theirs] for ours, theirs in TRANSFORMER.items()},
        'max_period': rope['rope_theta'],
    }
    common = {
        'stride': _stride(config),
        'dimension': config['hidden_size'],
    }
    trim = {'trim_right_ratio': config['trim_right_ratio']}
    size = config['vector_quantization_hidden_dimension']
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': {
            '_target_': 'audiocodec.modules.TransformerEncoder',
            'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
            'transformer': transformer,
            **common,
        },
        'decoder': {
            '_target_': 'audiocodec.modules.TransformerDecoder',
            'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **seanet, **trim},
            'transformer': dict(transformer),
            **common,
            **trim,
            'upsample_groups': config['upsample_groups'],
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.SplitResidualVectorQuantizer',
            **{ours: config[theirs] for ours, theirs in QUANTIZER.items()},
            'codebook_dimension': None if size == config['hidden_size'] else size,
        },
        'sample_rate': config['sampling_rate'],
        'channels': config['audio_channels'],
    }


def _check_config(config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Refuse options without a counterpart here."""
    heads = config['num_attention_heads']
    accepted = {
        'hidden_act': ('gelu',),
        'attention_bias': (False,),
        'norm_eps': (1e-5,),
        'num_key_value_heads': (None, heads),
        'head_dim': (None, config['hidden_size'] / heads),
        'codebook_dim': (config['vector_quantization_hidden_dimension'],),
    }
    problems = [
        f'{key}={config[key]!r}: only {" or ".join(map(repr, values))} is supported'
        for key, values in accepted.items()
        if config[key] not in values
    ]
    if rope.get('rope_type', 'default') != 'default':
        problems.append(f'rope_type={rope["rope_type"]!r}: only "default" is supported')
    if not isinstance(config['sliding_window'], int):
        problems.append(f'sliding_window={config["sliding_window"]!r}: a window is needed')
    if problems:
        raise ValueError(f'this Mimi model is not supported: {"; ".join(problems)}')


def _stride(config: Mapping[str, Any]) -> int:
    """Return the stride between the frames of SEANet and those of the codes."""
    rate = config['frame_rate'] or config['_frame_rate']
    if rate is None:  # the newest versions always assume 2
        return 2
    hop = 1
    for ratio in config['upsampling_ratios']:
        hop *= ratio
    return round(config['sampling_rate'] / hop / rate)


def model_state(weights: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Translate the names of the weights to ours.

    Args:
        weights: names to tensors.
        node: `_target_` node of the model.

    Raises:
        ValueError: a value is not a tensor, or weights of a layer or of a codebook are missing.
    """
    state: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[int, torch.Tensor]] = {}  # of what is one tensor here
    transposed = _transposed_layers(node['decoder']['decoder'])
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f'{name} among the weights is not a tensor but {type(value).__name__}')
        ours, index = _our_name(name, transposed)
        if index is None:
            state[ours] = value
        else:
            parts.setdefault(ours, {})[index] = value
    quantizer = node['quantizer']
    levels = {
        'semantic': quantizer['n_q_semantic'],
        'acoustic': quantizer['n_q'] - quantizer['n_q_semantic'],
    }
    for name, values in parts.items():
        is_codebook = name.startswith('quantizer.')
        number = levels[name.split('.')[1]] if is_codebook else len(PROJECTIONS)
        if sorted(values) != list(range(number)):
            raise ValueError(
                f'the weights do not fit the configuration: {name} needs {number} parts, found '
                f'those with the numbers {sorted(values)}'
            )
        ordered = [values[index] for index in range(number)]
        if name.endswith('.inited') or not is_codebook:
            state[name] = torch.cat(ordered)
        else:
            state[name] = torch.stack(ordered)
    for part in levels:
        book = f'quantizer.{part}.rvq.codebooks'
        if {f'{book}.embed_avg', f'{book}.cluster_size'} <= state.keys():
            state[f'{book}.embed'] = entries_of(
                state[f'{book}.embed_avg'], state[f'{book}.cluster_size']
            )
    return state


def _our_name(name: str, transposed: Collection[int]) -> tuple[str, int | None]:
    """Return our name of a weight, and its index in our tensor, None if it is all of it.

    Args:
        name: name in `transformers`.
        transposed: indices of the decoder's transposed convolutions.
    """
    if match := _BOOK.fullmatch(name):
        part, level, buffer = match.groups()
        ours = {theirs: ours for ours, theirs in CODEBOOK.items()}.get(buffer, buffer)
        return f'quantizer.{part}.rvq.codebooks.{ours}', int(level)
    if match := _LAYER.fullmatch(name):
        part, index, module, leaf = match.groups()
        prefix = f'{part}.transformer.layers.{index}'
        if module in PROJECTIONS:
            return f'{prefix}.attention.in_proj.{leaf}', PROJECTIONS.index(module)
        ours = {theirs: ours for ours, theirs in LAYER.items()}.get(module, module)
        return f'{prefix}.{ours}.{leaf}', None
    if match := _SEANET.fullmatch(name):
        part, index, rest = match.groups()
        conv = 'convtr' if part == 'decoder' and int(index) in transposed else 'conv'
        # here, a convolution and its norm are in a module of their own
        rest = re.sub(r'(^|\.)conv\.', rf'\g<1>{conv}.{conv}.', rest)
        return f'{part}.{part}.model.{index}.{rest}', None
    name = name.replace('_residual_vector_quantizer.', '.')
    name = re.sub(r'^downsample\.conv\.', 'encoder.downsample.conv.conv.', name)
    return re.sub(r'^upsample\.conv\.', 'decoder.upsample.convtr.convtr.', name), None


def _transposed_layers(decoder: Mapping[str, Any]) -> list[int]:
    """Return the layer indices of the decoder's transposed convolutions."""
    stage = 2 + decoder['n_residual_layers']
    return [2 + stage * index for index in range(len(decoder['ratios']))]


def entries_of(sums: torch.Tensor, usage: torch.Tensor) -> torch.Tensor:
    """Return the entries [K, bins, D] of codebooks from their moving sums and usages."""
    return sums / usage.clamp(min=EPSILON)[..., None]
