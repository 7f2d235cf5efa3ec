"""Pretrained models: loads a name, a file or a folder; recognizes formats by their content."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import compact
from audiocodec.models.formats import audiocraft, families, hub
from audiocodec.models.formats.common.keys import make_model
from audiocodec.models.wrapped import auto
from audiocodec.run import checkpoint
from audiocodec.utils import config

# models that come with the package, each with a card beside it
SHIPPED = {
    'audiocodec/small_24khz': Path(__file__).parent / 'shipped' / 'small_24khz.safetensors',
}
# known names, and their ids on the Hugging Face Hub; any other id is accepted too
HUB = {
    'facebook/encodec_24khz': 'facebook/encodec_24khz',
    'facebook/encodec_32khz': 'facebook/encodec_32khz',
    'facebook/encodec_48khz': 'facebook/encodec_48khz',
    'dac_16khz': 'descript/dac_16khz',
    'dac_24khz': 'descript/dac_24khz',
    'dac_44khz': 'descript/dac_44khz',
    'kyutai/mimi': 'kyutai/mimi',
}
NAMES = (*SHIPPED, *HUB)
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
        name: one of `NAMES`, of which those in `SHIPPED` need no network; a training checkpoint or
            an exported model of this project or of AudioCraft; weights of the `encodec` package, of
            `descript-audio-codec` or of WavTokenizer; a folder of `transformers` of type encodec,
            dac, mimi or wavtokenizer, of another type for `AudioTokenizer`, or of the `snac`
            package; or another id of such a model on the Hugging Face Hub.
        device: device of the model.

    Raises:
        ValueError: there is no such model, it cannot be read, or it does not fit its own
            configuration.
    """
    path = find(name)
    if _is_wrapped(path):
        return auto.AudioTokenizer.load(path).to(device).eval()
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
    if _is_wrapped(path):
        kind = hub.read_config(path).get('model_type')
        raise ValueError(
            f'{name!r} is a model of type {kind}, which cannot be trained here: use one of type '
            f'{", ".join(families.FAMILIES)}'
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
    if name in SHIPPED:
        return SHIPPED[name]
    if name in HUB or re.fullmatch(r'(?!audiocodec/)[\w-][\w.-]*/[\w-][\w.-]*', name):
        return hub.fetch(HUB.get(name, name))
    hint = config.nearest(name, NAMES) or '.'  # '; did you mean X?' or the end of the sentence
    raise ValueError(
        f'{name!r}: no such file or folder, and not the name of a model{hint} Expected '
        f'{", ".join(NAMES)}, another id of the Hugging Face Hub, a checkpoint or exported model '
        f'of audiocodec or AudioCraft, or a checkpoint of the encodec package'
    )


def _is_wrapped(path: Path) -> bool:
    """Return whether this is a folder of `transformers` that no family reads."""
    if not path.is_dir():
        return False
    folder_config = hub.read_config(path)
    if families.folder_reader(folder_config) is not None:
        return False
    kind = folder_config.get('model_type')
    if not auto.is_supported(kind):
        raise ValueError(
            f'{path / hub.CONFIG} has model_type {kind!r}: only {", ".join(families.FAMILIES)}, '
            f'{", ".join(auto.SINCE)} and others of AutoModelForAudioTokenization are supported'
        )
    return True


def _read(path: Path) -> Pretrained:
    """Read a file, or a folder of a family."""
    content = None if path.is_dir() else _content(path)
    try:
        found = _read_folder(path) if content is None else _read_content(content)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f'{path}: {error}') from error
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f'{path} has a damaged configuration ({type(error).__name__}: {error})'
        ) from error
    if found is not None:
        return found
    if path.name in hub.WEIGHTS and (path.parent / hub.CONFIG).is_file():
        return read(str(path.parent))
    listed = ', '.join(sorted(map(str, content or ()))[:8]) or 'nothing'
    hint = (
        f'; weights of transformers need their {hub.CONFIG} in the same folder'
        if path.name in hub.WEIGHTS
        else ''
    )
    raise ValueError(
        f'{path} contains {listed}: neither a checkpoint or export of audiocodec or AudioCraft, '
        f'nor a checkpoint of the encodec package, of descript-audio-codec or of '
        f'WavTokenizer{hint}'
    )


def _read_folder(path: Path) -> Pretrained:
    reader = families.folder_reader(hub.read_config(path))
    assert reader is not None, path
    return Pretrained(*reader(path))


def _read_content(content: dict[str, Any]) -> Pretrained | None:
    """Read the content of a file; None if no format recognizes it."""
    if content.get('format') in (checkpoint.CHECKPOINT_FORMAT, checkpoint.MODEL_FORMAT):
        return _read_own(content)
    for is_known, reader in families.FILES:
        if is_known(content):
            return Pretrained(*reader(content))
    return None


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
    return Pretrained(node, compact.widened(state))


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
