"""From a training checkpoint to the file that is shared: the weights used for inference and what rebuilds the model."""

import os
from pathlib import Path
from typing import Any

import yaml

from audiocodec.utils import checkpoint


def inference_state(content: dict[str, Any]) -> dict[str, Any]:
    """The model's weights in a training checkpoint: the averaged copy where one was kept, else the trained ones."""
    state = dict(content['state']['model'])
    state.update(content['state'].get('ema', {}).get('averages', {}))
    return state


def export_encodec(checkpoint_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> Path:
    """Write the compact file of a trained model: averaged weights and configuration, without data paths.

    Args:
        checkpoint_path: a training checkpoint, e.g. `xp.folder / 'checkpoint.th'`.
        out_path: the file to write; its folder is made.

    Returns:
        The path written, for `CompressionModel.get_pretrained` and `CompressionSolver.model_from_checkpoint`.

    Raises:
        ValueError: if the checkpoint cannot be read or is of another kind.
    """
    content = checkpoint.load_checkpoint(checkpoint_path)
    config = yaml.safe_load(content['config'])
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save({
        'format': checkpoint.MODEL_FORMAT,
        'version': checkpoint.VERSION,
        'sig': content['sig'],
        'epoch': content['epoch'],
        'config': yaml.safe_dump({'model': config['model']}, sort_keys=False),
        'state': inference_state(content),
    }, out_path)
    return out_path
