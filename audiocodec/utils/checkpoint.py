"""Files that hold tensors: written whole or not at all, read without running code.

Two kinds, both dicts of tensors, numbers, strings, lists and dicts:

- a training checkpoint, `format: audiocodec.checkpoint`: `version`, `sig`, `config` (YAML), `state` (one entry a part);
- an exported model, `format: audiocodec.model`: `version`, `config` (YAML: what rebuilds the model), `state`.
"""

import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_FORMAT = 'audiocodec.checkpoint'
MODEL_FORMAT = 'audiocodec.model'
VERSION = 1


def save(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `content` with `torch.save` so that a reader sees the old file or the new one, never a part of it.

    The temporary file lies in the same folder, is flushed to the disk, and takes the place of `path` in one rename.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    try:
        with os.fdopen(handle, 'wb') as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str], map_location: str | torch.device = 'cpu') -> dict[str, Any]:
    """Read a file of tensors; nothing in it is executed.

    Raises:
        ValueError: if the file is missing, truncated, not a PyTorch file, holds code, or is not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'no such checkpoint file: {path}')
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise ValueError(f'{path} holds more than tensors, numbers, strings, lists and dicts; loading it would run '
                             f'code, which is refused ({str(error).splitlines()[0]})') from error
        raise ValueError(f'{path} is not a checkpoint: neither a PyTorch archive nor complete') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f'{path} cannot be read as a checkpoint, it may be truncated: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, a checkpoint is a dict')
    return content


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training checkpoint of this project, on the CPU.

    Raises:
        ValueError: as `load`, or if the file is of another kind or a newer version.
    """
    content = load(path)
    if content.get('format') != CHECKPOINT_FORMAT:
        raise ValueError(f"{path} is not a training checkpoint of audiocodec: its format is "
                         f"{content.get('format', 'unnamed')!r}, expected {CHECKPOINT_FORMAT!r}")
    if content['version'] > VERSION:
        raise ValueError(f"{path} was written by a newer audiocodec (format version {content['version']}, this one "
                         f'reads up to {VERSION}): upgrade the package')
    return content


def prune(folder: Path, pattern: str, keep: int | None) -> None:
    """Delete all but the `keep` newest of the files `pattern` (with one number for the epoch in place of `*`)."""
    if keep is None:
        return
    prefix, suffix = pattern.split('*')
    found = [path for path in folder.glob(pattern) if path.name[len(prefix):len(path.name) - len(suffix)].isdigit()]
    found.sort(key=lambda path: int(path.name[len(prefix):len(path.name) - len(suffix)]))
    for path in found[:max(0, len(found) - keep)]:
        path.unlink()
