"""Checkpoint files: written atomically, read without executing code.

There are two formats, both dicts of tensors, numbers, strings, lists and dicts:

- training checkpoint, `format: audiocodec.checkpoint`: `version`, `sig`, `config` (YAML), `state`
  (one entry per part), `position` (progress within the epoch);
- exported model, `format: audiocodec.model`: `version`, `config` (YAML: rebuilds the model),
  `state`.

They are PyTorch archives. An exported model may also be a safetensors file, with everything except
its `state` in the metadata.
"""

import json
import os
import pickle
import pickletools
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from audiocodec.utils import files
from audiocodec.utils.errors import RunError

CHECKPOINT_FORMAT = 'audiocodec.checkpoint'
MODEL_FORMAT = 'audiocodec.model'
CHECKPOINT_VERSION = 2
MODEL_VERSION = 1
VERSIONS = {CHECKPOINT_FORMAT: CHECKPOINT_VERSION, MODEL_FORMAT: MODEL_VERSION}
SAFETENSORS = '.safetensors'

# metadata of a safetensors file that is written as plain text; the rest is JSON
_TEXTS = ('format', 'config')
# first bytes of unreadable files, and what they mean
_BEGINNINGS = {
    b'version https://git-lfs': 'is a Git LFS pointer, not the file; run `git lfs pull`',
    b'<': 'is a web page instead of the file',
    b'PK': 'is a zip archive that is truncated, damaged or not from PyTorch',
    b'\x80': 'is a pickle that is truncated, damaged or not from PyTorch',
    b'\x1f\x8b': 'is compressed with gzip, unpack it first',
    b'RIFF': 'is audio',
    b'fLaC': 'is audio',
    b'OggS': 'is audio',
    b'ID3': 'is audio',
}


def save(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file atomically: readers see the old file or the new one, never a part of it.

    A temporary file in the same folder is flushed to the disk, read back, and renamed to `path`. If
    anything fails before, the old file is intact.

    Args:
        content: tensors, numbers, strings, lists and dicts.
        path: the file, written by `torch.save`; the suffix `.safetensors` selects safetensors, for
            exported models only.

    Raises:
        ValueError: a safetensors file for something else than an exported model.
        RunError: the disk is full, not writable, or does not return what was written.
    """
    path = Path(path)
    try:
        with files.replaced(path) as temporary:  # see `remove_leftovers`
            with open(temporary, 'wb') as file:
                if path.suffix == SAFETENSORS:
                    file.write(_to_safetensors(content))
                else:
                    torch.save(content, file)
                files.flush(file)
            _read_back(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except RuntimeError as error:
        # PyTorch's writer raises its own error for a failed write; the cause is in its context
        if isinstance(error.__context__, OSError):
            raise _cannot_write(path, error.__context__) from error
        raise
    files.flush_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Delete temporary files of killed writes to `path`; no other process may be writing to it."""
    for leftover in path.parent.glob(f'.{path.name}.*.tmp'):
        leftover.unlink(missing_ok=True)


def _read_back(temporary: Path, path: Path) -> None:
    """Verify the checksums in the written file."""
    if path.suffix == SAFETENSORS:
        return
    try:
        with zipfile.ZipFile(temporary) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        damaged = 'its end'
    if damaged is not None:
        raise RunError(
            f'{path} was not replaced: {damaged} in the new file differs from what was written; is '
            'the disk failing? The old file is intact'
        )


def _cannot_write(path: Path, error: OSError) -> RunError:
    kept = 'the old file is intact' if os.path.exists(path) else 'there is no old file'
    return RunError(
        f'{path} could not be written ({kept}): {error.strerror or error}'
        f'{files.advice(error, path.parent)}'
    )


def load(
    path: str | os.PathLike[str],
    map_location: str | torch.device = 'cpu',
    types: Mapping[str, Any] | None = None,
    mmap: bool = False,
) -> dict[str, Any]:
    """Read a file of tensors, without executing anything in it.

    Args:
        path: a file of `torch.save` or safetensors, with any name.
        map_location: device of the tensors.
        types: classes by their full names that the file may use, in addition to tensors, numbers,
            strings, lists and dicts.
        mmap: leave tensors on the disk until they are used.

    Returns:
        What was saved; tensors by name for a safetensors file that is not an exported model.

    Raises:
        ValueError: the file is missing, truncated, of another format, contains code, or is not a
            dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'no such checkpoint file: {path}')
    if _is_safetensors(path):
        return _load_safetensors(path, map_location)
    if _is_torchscript(path):  # torch.load would warn, and pass it on to torch.jit.load
        raise ValueError(
            f'{path} contains a TorchScript program. Loading it would run code, which is refused: '
            'expected weights, saved by torch.save or as safetensors'
        )
    with torch.serialization.safe_globals([(cls, name) for name, cls in (types or {}).items()]):
        try:
            with warnings.catch_warnings():
                # of a plain pickle, which is refused
                warnings.filterwarnings('ignore', 'Detected pickle protocol')
                content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except Exception as error:  # damaged bytes may raise any error
            code = _code(path, error)
            if code:
                raise ValueError(
                    f'{path} contains more than tensors, numbers, strings, lists and dicts: it '
                    f'names {code}. Loading it would run code, which is refused'
                ) from error
            raise ValueError(
                f'{path} cannot be read as a checkpoint: it {_describe(path)}; PyTorch raised '
                f'{_reason(error)}'
            ) from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} contains a {type(content).__name__}, expected a dict')
    return content


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of `torch.jit.save`, which has a record of constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return any(name.endswith('/constants.pkl') for name in names)


def foreign_types(path: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of classes and functions in a PyTorch archive, except of tensors.

    They are read, not imported. Empty for other or unreadable files.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(path)))
    except Exception:  # not an archive, or damaged: `load` reports it
        return []


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training checkpoint of this project, on the CPU.

    Raises:
        ValueError: as `load`, or the file has another format or a newer version.
    """
    content = load(path)
    if content.get('format') != CHECKPOINT_FORMAT:
        raise ValueError(
            f'{path} is not a training checkpoint of audiocodec: its format is '
            f'{content.get("format", "unnamed")!r}, expected {CHECKPOINT_FORMAT!r}'
        )
    return _migrated(content, path)


def _migrated(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Convert a training checkpoint to the current version."""
    version = content.get('version')
    if not isinstance(version, int) or version < 1:
        raise ValueError(
            f'{path} has an unknown format version: {version!r}, expected 1 to {CHECKPOINT_VERSION}'
        )
    if version > CHECKPOINT_VERSION:
        raise ValueError(
            f'{path} was written by a newer audiocodec (format version {version}; this one '
            f'reads up to {CHECKPOINT_VERSION}): upgrade the package'
        )
    for step in range(version, CHECKPOINT_VERSION):
        content = _MIGRATIONS[step](content)
    return {**content, 'version': CHECKPOINT_VERSION}


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Convert version 1, which was only written at the end of an epoch."""
    return {**content, 'position': {}}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


def duplicate(path: Path, copy: Path) -> None:
    """Copy a file atomically, by a hard link if the file system supports it.

    A linked copy keeps its content when the file is replaced, because `save` renames a new file.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')  # see `remove_leftovers`
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, copy)
    finally:
        temporary.unlink(missing_ok=True)


def prune(folder: Path, pattern: str, keep: int | None) -> None:
    """Delete all but the `keep` newest of the files `pattern`, where `*` is the epoch.

    Raises:
        OSError: a file cannot be deleted; the others are.
    """
    if keep is None:
        return
    prefix, suffix = pattern.split('*')

    def epoch_of(path: Path) -> str:
        return path.name[len(prefix) : len(path.name) - len(suffix)]

    found = [path for path in folder.glob(pattern) if epoch_of(path).isdigit()]
    found.sort(key=lambda path: int(epoch_of(path)))
    failure = None
    for path in found[: max(0, len(found) - keep)]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def _to_safetensors(content: dict[str, Any]) -> bytes:
    """Return the bytes of an exported model as safetensors."""
    from safetensors.torch import save as to_bytes

    if content.get('format') != MODEL_FORMAT:
        raise ValueError(
            f'{SAFETENSORS} files are for exported models only, not for '
            f'{content.get("format", "unnamed")!r}: use another suffix, such as .th'
        )
    metadata = {
        key: value if key in _TEXTS else json.dumps(value)
        for key, value in content.items()
        if key != 'state'
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in content['state'].items()}
    return to_bytes(state, metadata)


def _is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors, by its suffix or its beginning: a length, then JSON."""
    with path.open('rb') as file:
        head = file.read(9)
    return path.suffix == SAFETENSORS or (
        head[8:] == b'{' and int.from_bytes(head[:8], 'little') < 2**27
    )


def _load_safetensors(path: Path, device: str | torch.device) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(
            f'{path} needs the package safetensors: pip install safetensors'
        ) from error
    try:
        with safe_open(path, 'pt', device=str(device)) as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f'{path} cannot be read as safetensors ({error}): it {_describe(path)}'
        ) from error
    if metadata.get('format') != MODEL_FORMAT:
        return state
    try:
        others = {
            key: value if key in _TEXTS else json.loads(value) for key, value in metadata.items()
        }
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is an exported model with damaged metadata: {error}') from error
    return {**others, 'state': state}


def _code(path: Path, error: Exception) -> str:
    """Return the names of what a refused file would execute; empty for other errors."""
    if not isinstance(error, pickle.UnpicklingError):
        return ''
    names = (
        foreign_types(path)
        or _named_in_pickle(path)
        or re.findall(r'(?:GLOBAL|function|module) <?([\w.]+)', str(error))
    )
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def _named_in_pickle(path: Path) -> list[str]:
    """Return the names of classes and functions in a plain pickle, without importing them."""
    names: set[str] = set()
    texts: list[str] = []
    with path.open('rb') as file, suppress(Exception):  # damaged bytes may raise any error
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ('GLOBAL', 'INST'):
                names.add(str(argument).replace(' ', '.'))
            elif opcode.name == 'STACK_GLOBAL':
                names.add('.'.join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    return sorted(names)


def _reason(error: Exception) -> str:
    """Return the line of PyTorch's message that says what is wrong."""
    found = re.search(r'WeightsUnpickler error:\s*(.+)', str(error))
    return f'{type(error).__name__}: {found[1] if found else (str(error).splitlines() or [""])[0]}'


def _describe(path: Path) -> str:
    """Describe what an unreadable file seems to be, as the end of a sentence."""
    size = path.stat().st_size
    with path.open('rb') as file:
        head = file.read(512)
    if size == 0:
        return 'is empty'
    for start, meaning in _BEGINNINGS.items():
        if head.lstrip().startswith(start):
            return f'{meaning} ({size} bytes)'
    try:
        text = head.decode('utf-8')
    except UnicodeDecodeError:
        return (
            f'is damaged or of an unknown format ({size} bytes, the first are {head[:8].hex(" ")})'
        )
    return f'is a text file ({size} bytes) that begins with {text[:40]!r}'
