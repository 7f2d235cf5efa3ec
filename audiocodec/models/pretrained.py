"""From a name or a file to a model: `load` knows every kind of file, by what is in it and not by its name."""

from pathlib import Path
from typing import Any

import torch
import yaml

from audiocodec.models import audiocraft
from audiocodec.models.base import CompressionModel
from audiocodec.utils import checkpoint, config, export


def load(name: str, device: str | torch.device = 'cpu') -> CompressionModel:
    """A model in eval mode, ready for inference and for further training.

    Args:
        name: a file: a training checkpoint or an exported model of this project, or a model exported by AudioCraft.
        device: where to put it.

    Raises:
        ValueError: if there is no such file, it cannot be read, or it does not fit its own configuration.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f'{name!r}: no such file; expected a checkpoint or an exported model, of audiocodec or '
                         'AudioCraft')
    content = checkpoint.load(path)
    kind = content.get('format')
    if kind in (checkpoint.CHECKPOINT_FORMAT, checkpoint.MODEL_FORMAT):
        model = _from_own(content, path)
    elif 'best_state' in content and 'xp.cfg' in content:
        model = audiocraft.from_export(content)
    else:
        raise ValueError(f"{path} holds {', '.join(sorted(map(str, content))[:8])}: neither a checkpoint or export of "
                         'audiocodec nor an export of AudioCraft')
    return model.to(device).eval()


def _from_own(content: dict[str, Any], path: Path) -> CompressionModel:
    if content['version'] > checkpoint.VERSION:
        raise ValueError(f"{path} was written by a newer audiocodec (format version {content['version']}, this one "
                         f'reads up to {checkpoint.VERSION}): upgrade the package')
    is_model = content['format'] == checkpoint.MODEL_FORMAT
    state = content['state'] if is_model else export.inference_state(content)
    model: CompressionModel = config.build(yaml.safe_load(content['config'])['model'])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'{path}: the weights do not fit the configuration beside them: {error}') from error
    return model
