"""EnCodec models of AudioCraft: reads exports and training checkpoints, writes exports.

An export is a dict of `best_state` (names to tensors), `xp.cfg` (the configuration, as YAML),
`version` and `exported`. AudioCraft's `CompressionModel.get_pretrained` and its MusicGen training
load it (`//pretrained/PATH`). A training checkpoint has the weights in `best_state` under `model`,
and a pickled omegaconf object in `xp.cfg`.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats.common.keys import translate
from audiocodec.models.formats.common.weight_norm import hook_names
from audiocodec.models.options import Options, changed, options_of, refuse
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.run import checkpoint

logger = logging.getLogger(__name__)

SEANET_KEYS = frozenset(
    (
        'channels',
        'dimension',
        'n_filters',
        'n_residual_layers',
        'ratios',
        'activation',
        'activation_params',
        'norm',
        'norm_params',
        'kernel_size',
        'last_kernel_size',
        'residual_kernel_size',
        'dilation_base',
        'causal',
        'pad_mode',
        'true_skip',
        'compress',
        'lstm',
        'disable_norm_outer_blocks',
    )
)
DECODER_KEYS = SEANET_KEYS | {'final_activation', 'final_activation_params', 'trim_right_ratio'}
RVQ_KEYS = frozenset(
    ('n_q', 'q_dropout', 'bins', 'decay', 'kmeans_init', 'kmeans_iters', 'threshold_ema_dead_code')
)
# options of AudioCraft's training that do not affect a trained model
_RVQ_TRAINING_KEYS = frozenset(
    ('orthogonal_reg_weight', 'orthogonal_reg_active_codes_only', 'orthogonal_reg_max_codes')
)
# `renorm` is a deprecated key that AudioCraft ignores too
_ENCODEC_KEYS = frozenset(
    ('autoencoder', 'quantizer', 'sample_rate', 'channels', 'causal', 'renormalize', 'renorm')
)
_CODEBOOK = re.compile(
    r'quantizer\.vq\.layers\.(\d+)\._codebook\.(embed|embed_avg|cluster_size|inited)'
)


def checkpoint_types() -> dict[str, Any]:
    """Return the classes, by name, that a training checkpoint contains besides tensors.

    These are the classes of its configuration. Averages are in a defaultdict, and metrics may be
    NumPy scalars; both are replaced by plain types.
    """
    import typing

    # not at the top: loading other models does not need it
    from omegaconf import DictConfig, ListConfig, base, nodes

    types = (
        DictConfig,
        ListConfig,
        base.ContainerMetadata,
        base.Metadata,
        nodes.AnyNode,
        nodes.BooleanNode,
        nodes.FloatNode,
        nodes.IntegerNode,
        nodes.StringNode,
        dict,
        list,
        bool,
        float,
        int,
        str,
    )
    named = {f'{cls.__module__}.{cls.__qualname__}': cls for cls in types}
    scalars = ('numpy.dtype', 'numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar')
    return {
        **named,
        **dict.fromkeys(scalars, _Ignored),
        'typing.Any': typing.Any,
        'collections.defaultdict': _plain_dict,
    }


def read(package: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Translate an export or a training checkpoint of AudioCraft.

    The frame rate of the model is exact, while AudioCraft rounds it down to an integer.

    Args:
        package: content of the file.

    Returns:
        The `_target_` node of an `EncodecModel`, and its weights.

    Raises:
        ValueError: not an EnCodec model of AudioCraft, or an option that is not supported.
    """
    if 'pretrained' in package:
        name = package['pretrained']
        raise ValueError(
            f'this export has no weights, only the name of a pretrained model, {name!r}: load it '
            f'with CompressionModel.get_pretrained({name!r})'
        )
    absent = [key for key in ('best_state', 'xp.cfg') if key not in package]
    if absent:
        raise ValueError(
            f'not an AudioCraft export: it has no {" and no ".join(absent)}, only {sorted(package)}'
        )
    return model_config(package['xp.cfg']), model_state(_best_state(package))


def model_config(xp_cfg: Any) -> dict[str, Any]:
    """Translate the configuration of an export to the `_target_` node of an `EncodecModel`.

    Args:
        xp_cfg: YAML, as in the export, or its content, plain or as an omegaconf object.
            Interpolations are resolved.

    Raises:
        ValueError: unreadable, not an EnCodec model, or an option that is not supported.
    """
    config = _read_sections(xp_cfg)
    kind = config.get('compression_model')
    if kind != 'encodec':
        raise ValueError(
            f"compression_model={kind!r} in the AudioCraft configuration: only 'encodec' is "
            'supported'
        )
    encodec = _section(config, 'encodec', _ENCODEC_KEYS)
    for key, accepted in (('autoencoder', ('seanet',)), ('quantizer', ('rvq', 'no_quant'))):
        if encodec.get(key) not in accepted:
            raise ValueError(
                f'encodec.{key}={encodec.get(key)!r} in the AudioCraft configuration: only '
                f'{" or ".join(accepted)} is supported'
            )
    for key in ('sample_rate', 'channels'):
        if key not in encodec:
            raise ValueError(f'encodec.{key} is missing in the AudioCraft configuration')
    encoder, decoder = _seanet_nodes(config)
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'encoder': encoder,
        'decoder': decoder,
        'quantizer': _quantizer_node(config, encodec['quantizer'], encoder.get('dimension', 128)),
        'sample_rate': encodec['sample_rate'],
        'channels': encodec['channels'],
        'renormalize': encodec.get('renormalize', False),
    }


def model_state(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Translate the names of AudioCraft's weights to ours.

    Raises:
        ValueError: a value is not a tensor, or codebooks are missing.
    """
    return translate(state, _CODEBOOK)


class _Ignored:
    """Placeholder for a value that is not read."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Replace a defaultdict, which the restricted unpickler of PyTorch does not fill."""
    return {}


def _best_state(package: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the weights that AudioCraft loads: of the best epoch, if any, or the latest."""
    candidates = [package['best_state']]
    if not package.get('exported'):
        parts = [package.get('fsdp_best_state'), package['best_state'], package]
        candidates = [
            part.get('model') if isinstance(part, Mapping) else None for part in parts
        ] + candidates
    for state in candidates:
        if isinstance(state, Mapping) and state:
            return state
    raise ValueError(
        'best_state of the AudioCraft package contains no weights: '
        f'{str(package["best_state"])[:80]}'
    )


def _read_sections(xp_cfg: Any) -> dict[str, Any]:
    """Read the sections of the model; others may not resolve outside the training environment."""
    from omegaconf import OmegaConf  # not at the top: loading other models does not need it
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config: Any = xp_cfg if OmegaConf.is_config(xp_cfg) else OmegaConf.create(xp_cfg)
        if not OmegaConf.is_dict(config):
            raise ValueError(
                'the AudioCraft configuration (xp.cfg) is not a mapping of keys to values'
            )
        sections = {}
        for name in ('compression_model', 'encodec', 'seanet', 'rvq'):
            node = config.get(name)
            sections[name] = (
                OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            )
        return sections
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(
            f'the AudioCraft configuration (xp.cfg) cannot be read: {error}'
        ) from error


def _section(config: Mapping[str, Any], name: str, known: Collection[str]) -> dict[str, Any]:
    """Return a section, after checking its keys."""
    section = config.get(name)
    if not isinstance(section, dict):
        raise ValueError(f'the AudioCraft configuration has no section {name}')
    unknown = sorted(str(key) for key in section if key not in known)
    if unknown:
        raise ValueError(
            f'the AudioCraft configuration has options that are not supported: '
            f'{", ".join(f"{name}.{key}={section[key]!r}" for key in unknown)}'
        )
    return section


def _seanet_nodes(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the nodes of encoder and decoder: shared options, overridden by their own."""
    seanet = _section(config, 'seanet', SEANET_KEYS | {'encoder', 'decoder'})
    shared = {key: value for key, value in seanet.items() if key not in ('encoder', 'decoder')}
    nodes = []
    for part, known, target in (
        ('encoder', SEANET_KEYS, 'audiocodec.modules.SEANetEncoder'),
        ('decoder', DECODER_KEYS, 'audiocodec.modules.SEANetDecoder'),
    ):
        own = _section({f'seanet.{part}': seanet.get(part) or {}}, f'seanet.{part}', known)
        node = {'_target_': target, **shared, **own}
        if node.get('norm') != 'time_group_norm':
            node.pop('norm_params', None)  # AudioCraft ignores them with other norms
        nodes.append(node)
    return nodes[0], nodes[1]


def _quantizer_node(config: Mapping[str, Any], kind: str, dimension: int) -> dict[str, Any]:
    """Return the node of the quantizer."""
    if kind == 'no_quant':
        return {'_target_': 'audiocodec.quantization.NoQuantizer', 'dimension': dimension}
    rvq = _section(config, 'rvq', RVQ_KEYS | _RVQ_TRAINING_KEYS)
    if rvq.get('orthogonal_reg_weight'):
        logger.warning(
            'rvq.orthogonal_reg_weight=%s of AudioCraft has no equivalent: the model computes the '
            'same, but continues training without it',
            rvq['orthogonal_reg_weight'],
        )
    node = {key: value for key, value in rvq.items() if key not in _RVQ_TRAINING_KEYS}
    return {
        '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
        'dimension': dimension,
        **node,
    }


FORMAT = 'audiocraft'
# version of AudioCraft to write into files: the one whose sources this code follows
VERSION = '1.3.0'
# options that affect only the initialization or the training here
_WITHOUT_EFFECT = frozenset({'init', 'seed'})


def save(model: CompressionModel, out: Path) -> list[str]:
    """Write an export for AudioCraft; creates the folder.

    Returns:
        Notes for the report.

    Raises:
        ValueError: AudioCraft does not support an option.
    """
    options = options_of(model, FORMAT)
    _check(options)
    state = foreign_state(model.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        {
            'best_state': state,
            'xp.cfg': yaml.safe_dump(foreign_config(options), sort_keys=False),
            'version': VERSION,
            'exported': True,
        },
        out,
    )
    if model.frame_rate.is_integer():
        return []
    return [
        f'AudioCraft rounds the frame rate, {model.frame_rate:.3f} Hz, down to an integer: '
        'durations derived from it are off'
    ]


def foreign_config(options: Options) -> dict[str, Any]:
    """Return the configuration from which AudioCraft rebuilds the model."""
    known = SEANET_KEYS
    shared = {
        key: value
        for key, value in options.encoder.items()
        if key in known and options.decoder.get(key) == value
    }
    own: list[dict[str, Any]] = []
    for part in (options.encoder, options.decoder):
        keys = [key for key in part if key in DECODER_KEYS and key not in shared]
        own.append({key: _plain(key, part[key]) for key in keys})
    rate = options.model['sample_rate']
    channels = options.model['channels']
    return {
        'solver': 'compression',
        'device': 'cpu',
        'dtype': 'float32',
        'sample_rate': rate,
        'channels': channels,
        'compression_model': 'encodec',
        'encodec': {
            'autoencoder': 'seanet',
            'quantizer': 'rvq' if options.quantizer else 'no_quant',
            'sample_rate': rate,
            'channels': channels,
            'causal': options.encoder['causal'],
            'renormalize': options.model['renormalize'],
        },
        'seanet': {
            **{key: _plain(key, value) for key, value in shared.items()},
            'encoder': own[0],
            'decoder': own[1],
        },
        'rvq': {key: value for key, value in options.quantizer.items() if key in RVQ_KEYS},
        'no_quant': {},
    }


def foreign_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate weights to AudioCraft's names: norms of the older layout, separate codebooks."""
    translated = {}
    for name, value in hook_names(state).items():
        module, _, buffer = name.rpartition('.')
        if module != 'quantizer.codebooks':
            translated[name] = value.detach().cpu().clone()
        elif buffer in ('embed', 'embed_avg', 'cluster_size', 'inited'):
            for level, book in enumerate(value.detach().cpu()):
                translated[f'quantizer.vq.layers.{level}._codebook.{buffer}'] = book.view(
                    -1, *book.shape[1:]
                ).clone()
    return translated


def _check(options: Options) -> None:
    """Refuse options that AudioCraft does not support, unless they are at their default."""
    problems = []
    if options.model['segment_duration'] is not None:
        problems.append(
            f'model.segment_duration={options.model["segment_duration"]}: AudioCraft encodes whole '
            'items'
        )
    problems += changed('encoder', SEANetEncoder, options.encoder, SEANET_KEYS | _WITHOUT_EFFECT)
    problems += changed('decoder', SEANetDecoder, options.decoder, DECODER_KEYS | _WITHOUT_EFFECT)
    if options.quantizer:
        problems += changed(
            'quantizer',
            ResidualVectorQuantizer,
            options.quantizer,
            RVQ_KEYS | _WITHOUT_EFFECT | {'dimension'},
        )
    refuse(FORMAT, problems)


def _plain(key: str, value: Any) -> Any:
    """Convert a value for YAML and AudioCraft, where no arguments are an empty mapping."""
    if key in ('activation_params', 'norm_params'):
        return dict(value or {})
    return list(value) if isinstance(value, tuple) else value
