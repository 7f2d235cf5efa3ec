"""Pretrained models: loads a name, a file or a folder; recognizes formats by their content."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import compact
from audiocodec.models.formats import audiocraft, encodec_package, hf, hub
from audiocodec.models.formats.common.keys import make_model
from audiocodec.models.wrapped import auto
from audiocodec.models.wrapped.base import TransformersCodec
from audiocodec.models.wrapped.dac import DAC
from audiocodec.models.wrapped.mimi import Mimi
from audiocodec.run import checkpoint
from audiocodec.utils import config

# known names, and their ids on the Hugging Face Hub; any other id is accepted too
NAMES = {
    'facebook/encodec_24khz': 'facebook/encodec_24khz',
    'facebook/encodec_32khz': 'facebook/encodec_32khz',
    'facebook/encodec_48khz': 'facebook/encodec_48khz',
    'dac_16khz': 'descript/dac_16khz',
    'dac_24khz': 'descript/dac_24khz',
    'dac_44khz': 'descript/dac_44khz',
    'kyutai/mimi': 'kyutai/mimi',
}
# `transformers` models that are wrapped unchanged, by the `model_type` of their configuration
WRAPPED: dict[str, type[TransformersCodec]] = {'dac': DAC, 'mimi': Mimi}
# files to look for in a folder without `config.json`, of this project or of AudioCraft
_FILES = ('checkpoint.th', 'compression_state_dict.bin')
# packages whose module classes the configuration in a file may use, besides what the user allows
_TARGETS = ('audiocodec.models.', 'audiocodec.modules.', 'audiocodec.quantization.', 'torch.nn.')


class Pretrained(NamedTuple):
    """Configuration and weights of a trainable model.

    Attributes:
        config: its `_target_` node, with the keys of a recipe's `model` section.
        state: its state dict.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]


def load(name: str, device: str | torch.device = 'cpu') -> CompressionModel:
    """Load a model in eval mode, for inference and, unless it is wrapped, for training.

    Args:
        name: a file: a training checkpoint or an exported model of this project or of AudioCraft,
            or a checkpoint of the `encodec` package; a folder of `transformers` of type encodec,
            dac or mimi, or of another for `AudioTokenizer`; one of `NAMES`, or another id of such a
            model on the Hugging Face Hub.
        device: device of the model.

    Raises:
        ValueError: there is no such model, it cannot be read, or it does not fit its own
            configuration.
    """
    path = find(name)
    kind = _model_type(path)
    if kind not in (None, 'encodec'):
        return WRAPPED.get(kind, auto.AudioTokenizer).load(path).to(device).eval()
    node, state = _read(path)
    try:
        return make_model(node, state).to(device)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def read(name: str) -> Pretrained:
    """Read the configuration and weights of a trainable model; names as for `load`.

    Raises:
        ValueError: as `load`, or the model is wrapped from `transformers`.
    """
    path = find(name)
    kind = _model_type(path)
    if kind not in (None, 'encodec'):
        raise ValueError(
            f'{name!r} is a model of type {kind}, which cannot be trained here: use an EnCodec '
            'model'
        )
    return _read(path)


def find(name: str) -> Path:
    """Return the local file or folder of a model, downloaded from the Hub if necessary.

    Raises:
        ValueError: no such file, folder, or model on the Hub; the message says what is accepted.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / hub.CONFIG).is_file():
            return path
        for file in _FILES:
            if (path / file).is_file():
                return path / file
        found = ', '.join(sorted(entry.name for entry in path.iterdir())[:8]) or 'nothing'
        raise ValueError(
            f'the folder {path} contains no model: expected {hub.CONFIG} with its weights, or '
            f'{" or ".join(_FILES)}; found {found}'
        )
    if name in NAMES or re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', name):
        return hub.fetch(NAMES.get(name, name))
    hint = config.nearest(name, NAMES) or '.'  # '; did you mean X?' or the end of the sentence
    raise ValueError(
        f'{name!r}: no such file or folder, and not the name of a model{hint} Expected '
        f'{", ".join(NAMES)}, another id of the Hugging Face Hub, a checkpoint or exported model '
        f'of audiocodec or AudioCraft, or a checkpoint of the encodec package'
    )


def _model_type(path: Path) -> Any:
    """Return the `model_type` of a `transformers` folder; None for a file."""
    if not path.is_dir():
        return None
    kind = hub.read_config(path).get('model_type')
    if kind != 'encodec' and kind not in WRAPPED and not auto.is_supported(kind):
        raise ValueError(
            f'{path / hub.CONFIG} has model_type {kind!r}: only encodec, {", ".join(WRAPPED)}, '
            f'{", ".join(auto.SINCE)} and others of AutoModelForAudioTokenization are supported'
        )
    return kind


def _read(path: Path) -> Pretrained:
    """Read a file, or a folder of type encodec."""
    content = None if path.is_dir() else _content(path)
    try:
        if content is None:
            return Pretrained(*hf.read(path))
        if content.get('format') in (checkpoint.CHECKPOINT_FORMAT, checkpoint.MODEL_FORMAT):
            return _read_own(content)
        if 'xp.cfg' in content or 'pretrained' in content:
            return Pretrained(*audiocraft.read(content))
        if encodec_package.is_checkpoint(content):
            return Pretrained(*encodec_package.read(content))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f'{path}: {error}') from error
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f'{path} has a damaged configuration ({type(error).__name__}: {error})'
        ) from error
    if path.name in hub.WEIGHTS and (path.parent / hub.CONFIG).is_file():
        return read(str(path.parent))
    found = ', '.join(sorted(map(str, content))[:8]) or 'nothing'
    hint = (
        f'; weights of transformers need their {hub.CONFIG} in the same folder'
        if path.name in hub.WEIGHTS
        else ''
    )
    raise ValueError(
        f'{path} contains {found}: neither a checkpoint or export of audiocodec or AudioCraft, nor '
        f'a checkpoint of the encodec package{hint}'
    )


def _content(path: Path) -> dict[str, Any]:
    """Load a file; allows omegaconf objects, the configuration in AudioCraft's checkpoints."""
    names = checkpoint.foreign_types(path)
    types = (
        audiocraft.checkpoint_types()
        if any(name.startswith('omegaconf.') for name in names)
        else None
    )
    return checkpoint.load(path, types=types)


def _read_own(content: dict[str, Any]) -> Pretrained:
    missing = [key for key in ('version', 'config', 'state') if key not in content]
    if missing:
        raise ValueError(
            f'its format is {content["format"]}, but {" and ".join(missing)} is missing'
        )
    newest = checkpoint.VERSIONS[content['format']]
    if content['version'] > newest:
        raise ValueError(
            f'it was written by a newer audiocodec (format version {content["version"]}; this one '
            f'reads up to {newest}): upgrade the package'
        )
    is_model = content['format'] == checkpoint.MODEL_FORMAT
    try:
        node = yaml.safe_load(content['config'])['model']
    except yaml.YAMLError as error:
        raise ValueError(f'its configuration is not valid YAML: {error}') from error
    _check_targets(node)
    state = content['state'] if is_model else compact.inference_state(content)
    if not isinstance(state, dict):
        raise ValueError(
            f'its state is a {type(state).__name__}, expected a dict of names to tensors'
        )
    return Pretrained(node, state)


def _check_targets(node: Any) -> None:
    """Refuse a configuration that calls anything but module classes: files may not be trusted."""
    for where, mapping in config.targets(node):
        target = str(mapping['_target_'])
        found = config.locate(target)
        ours = target.startswith(('audiocodec.', 'torch.'))
        if ours and not (
            target.startswith(_TARGETS) and isinstance(found, type) and issubclass(found, nn.Module)
        ):
            raise ValueError(
                f"model{'.' if where else ''}{where}._target_ '{target}' in its configuration is "
                f'refused: expected a module class in {", ".join(_TARGETS)}'
            )
