"""EnCodec models that were exported by AudioCraft: their configuration and weights, made ours.

An export is a dict of `best_state` (names to tensors), `xp.cfg` (the configuration, as YAML), `version` and `exported`.
"""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from audiocodec.utils.config import build
from audiocodec.utils.weight_norm import parametrized_names

from .encodec import EncodecModel

logger = logging.getLogger(__name__)

_SEANET_KEYS = frozenset((
    'channels', 'dimension', 'n_filters', 'n_residual_layers', 'ratios', 'activation', 'activation_params', 'norm',
    'norm_params', 'kernel_size', 'last_kernel_size', 'residual_kernel_size', 'dilation_base', 'causal', 'pad_mode',
    'true_skip', 'compress', 'lstm', 'disable_norm_outer_blocks'))
_DECODER_KEYS = _SEANET_KEYS | {'final_activation', 'final_activation_params', 'trim_right_ratio'}
_RVQ_KEYS = frozenset(('n_q', 'q_dropout', 'bins', 'decay', 'kmeans_init', 'kmeans_iters', 'threshold_ema_dead_code'))
# These shape AudioCraft's training, but not what a trained model computes.
_RVQ_TRAINING_KEYS = frozenset(('orthogonal_reg_weight', 'orthogonal_reg_active_codes_only',
                                'orthogonal_reg_max_codes'))
_ENCODEC_KEYS = frozenset(('autoencoder', 'quantizer', 'sample_rate', 'channels', 'causal', 'renormalize',
                           'renorm'))  # `renorm` is a deprecated key that AudioCraft ignores too
_CODEBOOK = re.compile(r'quantizer\.vq\.layers\.(\d+)\._codebook\.(embed|embed_avg|cluster_size|inited)')
_CODEBOOK_BUFFERS = ('embed', 'embed_avg', 'cluster_size', 'inited')


def from_export(package: Mapping[str, Any]) -> EncodecModel:
    """Make a model of what `torch.load(file, weights_only=True)` gives for an AudioCraft export.

    Its frame rate is exact, where AudioCraft rounds it down to an integer.

    Args:
        package: the export.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        ValueError: not an export of an EnCodec model, an option that is not supported, or weights that do not fit.
    """
    if 'pretrained' in package:
        name = package['pretrained']
        raise ValueError(f'this export holds no weights, only the name of a pretrained model, {name!r}: load it with '
                         f'CompressionModel.get_pretrained({name!r}).')
    absent = [key for key in ('best_state', 'xp.cfg') if key not in package]
    if absent:
        raise ValueError(f'not an AudioCraft export: it has no {" and no ".join(absent)}, only {sorted(package)}.')
    model = build(model_config(package['xp.cfg']))
    assert isinstance(model, EncodecModel), type(model)
    state = model_state(package['best_state'])
    _check_state(state, model)
    model.load_state_dict(state)
    return model.eval()


def model_config(xp_cfg: str | Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration of an export to the `_target_` node of an `EncodecModel`.

    Args:
        xp_cfg: YAML, as in the export, or what it stands for. Interpolations are resolved.

    Raises:
        ValueError: unreadable, not an EnCodec model, or an option that is not supported.
    """
    config = _read_sections(xp_cfg)
    kind = config.get('compression_model')
    if kind != 'encodec':
        raise ValueError(f"compression_model={kind!r} in the AudioCraft configuration: only 'encodec' is supported.")
    encodec = _section(config, 'encodec', _ENCODEC_KEYS)
    for key, accepted in (('autoencoder', ('seanet',)), ('quantizer', ('rvq', 'no_quant'))):
        if encodec.get(key) not in accepted:
            raise ValueError(f'encodec.{key}={encodec.get(key)!r} in the AudioCraft configuration: only '
                             f'{" or ".join(accepted)} is supported.')
    for key in ('sample_rate', 'channels'):
        if key not in encodec:
            raise ValueError(f'encodec.{key} is missing in the AudioCraft configuration.')
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
    """Translate the names of an export's tensors to ours.

    Normalised weights become parametrizations, and the codebooks, one module each in AudioCraft, are stacked.

    Raises:
        ValueError: something else than tensors, or an incomplete set of codebooks.
    """
    others: dict[str, torch.Tensor] = {}
    books: dict[str, dict[int, torch.Tensor]] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f'{name} in the AudioCraft weights is no tensor but {type(value).__name__}: only exported '
                             f'models can be read, not checkpoints of a training.')
        match = _CODEBOOK.fullmatch(name)
        if match:
            books.setdefault(match[2], {})[int(match[1])] = value
        else:
            others[name] = value
    translated = parametrized_names(others)
    for buffer, levels in books.items():
        if sorted(levels) != list(range(len(levels))) or len({value.shape for value in levels.values()}) > 1:
            shapes = {level: list(levels[level].shape) for level in sorted(levels)}
            raise ValueError(f'quantizer.vq.layers.*._codebook.{buffer} in the AudioCraft weights must be numbered '
                             f'from 0 on, all of one shape, got {shapes}.')
        stacked = torch.stack([levels[level] for level in range(len(levels))])
        translated[f'quantizer.codebooks.{buffer}'] = stacked.view(-1) if buffer == 'inited' else stacked
    return translated


def _read_sections(xp_cfg: str | Mapping[str, Any]) -> dict[str, Any]:
    """Sections that make the model. The others may hold interpolations that resolve only where it was trained."""
    from omegaconf import OmegaConf  # late: loading other models does not need it
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config: Any = OmegaConf.create(xp_cfg)  # type: ignore[arg-type]
        if not OmegaConf.is_dict(config):
            raise ValueError('the AudioCraft configuration (xp.cfg) is not a mapping of keys to values.')
        sections = {}
        for name in ('compression_model', 'encodec', 'seanet', 'rvq'):
            node = config.get(name)
            sections[name] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        return sections
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f'the AudioCraft configuration (xp.cfg) cannot be read: {error}') from error


def _section(config: Mapping[str, Any], name: str, known: Collection[str]) -> dict[str, Any]:
    """A section, with its keys checked."""
    section = config.get(name)
    if not isinstance(section, dict):
        raise ValueError(f'the AudioCraft configuration has no section {name}.')
    unknown = sorted(str(key) for key in section if key not in known)
    if unknown:
        raise ValueError(f'the AudioCraft configuration has options that are not supported: '
                         f'{", ".join(f"{name}.{key}={section[key]!r}" for key in unknown)}.')
    return section


def _seanet_nodes(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nodes of the encoder and of the decoder: the shared options, overridden by their own."""
    seanet = _section(config, 'seanet', _SEANET_KEYS | {'encoder', 'decoder'})
    shared = {key: value for key, value in seanet.items() if key not in ('encoder', 'decoder')}
    nodes = []
    for part, known, target in (('encoder', _SEANET_KEYS, 'audiocodec.modules.SEANetEncoder'),
                                ('decoder', _DECODER_KEYS, 'audiocodec.modules.SEANetDecoder')):
        own = _section({f'seanet.{part}': seanet.get(part) or {}}, f'seanet.{part}', known)
        node = {'_target_': target, **shared, **own}
        if node.get('norm') != 'time_group_norm':
            node.pop('norm_params', None)  # AudioCraft ignores them there
        nodes.append(node)
    return nodes[0], nodes[1]


def _quantizer_node(config: Mapping[str, Any], kind: str, dimension: int) -> dict[str, Any]:
    """Node of the quantizer."""
    if kind == 'no_quant':
        return {'_target_': 'audiocodec.quantization.NoQuantizer', 'dimension': dimension}
    rvq = _section(config, 'rvq', _RVQ_KEYS | _RVQ_TRAINING_KEYS)
    if rvq.get('orthogonal_reg_weight'):
        logger.warning('rvq.orthogonal_reg_weight=%s of AudioCraft has no equivalent: the model computes the same, but '
                       'trains on without it.', rvq['orthogonal_reg_weight'])
    node = {key: value for key, value in rvq.items() if key not in _RVQ_TRAINING_KEYS}
    return {'_target_': 'audiocodec.quantization.ResidualVectorQuantizer', 'dimension': dimension, **node}


def _check_state(state: Mapping[str, torch.Tensor], model: EncodecModel) -> None:
    """Check that the weights are those of the model, before anything is loaded.

    Raises:
        ValueError: it lists what is missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    required = [name for name in expected  # AudioCraft has fewer statistics of the codebooks than we
                if not name.startswith('quantizer.codebooks.') or name.rpartition('.')[2] in _CODEBOOK_BUFFERS]
    problems = {
        'missing': [name for name in required if name not in state],
        'unexpected': [name for name in state if name not in expected],
        'of another shape': [
            f'{name} {list(state[name].shape)} instead of {list(expected[name].shape)}'
            for name in state if name in expected and state[name].shape != expected[name].shape],
    }
    found = [f'{len(names)} {what} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
             for what, names in problems.items() if names]
    if found:
        raise ValueError(f'the AudioCraft weights are not those of the model in its configuration: {"; ".join(found)}.')
