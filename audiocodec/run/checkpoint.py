"""Files that hold tensors: written whole or not at all, read without running code.

Two kinds, both dicts of tensors, numbers, strings, lists and dicts:

- a training checkpoint, `format: audiocodec.checkpoint`: `version`, `sig`, `config` (YAML), `state`
  (one entry a part), `position` (how far into the epoch it is);
- an exported model, `format: audiocodec.model`: `version`, `config` (YAML: what rebuilds the
  model), `state`.

They are PyTorch archives; an exported model may be a safetensors file too, all but its `state`
being in the metadata.
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
CHECKPOINT_VERSION, MODEL_VERSION = 2, 1
VERSIONS = {CHECKPOINT_FORMAT: CHECKPOINT_VERSION, MODEL_FORMAT: MODEL_VERSION}
SAFETENSORS = '.safetensors'

# metadata of a safetensors file that are written as they are; the others are JSON
_TEXTS = ('format', 'config')
# what an unreadable file may begin with, and what that says of it
_BEGINNINGS = {
    b'version https://git-lfs': 'is a Git LFS pointer, not the file; run `git lfs pull`',
    b'<': 'is a web page and not the file it should lead to',
    b'PK': 'is a zip archive that is truncated, damaged or not of PyTorch',
    b'\x80': 'is a pickle that is truncated, damaged or not of PyTorch',
    b'\x1f\x8b': 'is compressed with gzip, unpack it first',
    b'RIFF': 'is audio',
    b'fLaC': 'is audio',
    b'OggS': 'is audio',
    b'ID3': 'is audio',
}


def save(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `content` so that a reader sees the old file or the new one, never a part of it.

    The temporary file lies in the same folder, is flushed to the disk and read back, and takes the
    place of `path` in one rename: whatever happens before, the old file is intact.

    Args:
        content: tensors, numbers, strings, lists and dicts.
        path: the file, of `torch.save`; with the suffix `.safetensors` of safetensors, for an
            exported model only.

    Raises:
        ValueError: a safetensors file of something else than an exported model.
        RunError: the disk is full, cannot be written to, or does not give back what was written.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')  # one of `remove_leftovers`
    try:
        with open(temporary, 'wb') as file:
            if path.suffix == SAFETENSORS:
                file.write(_to_safetensors(content))
            else:
                torch.save(content, file)
            files.flush(file)
        _read_back(temporary, path)
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except RuntimeError as error:
        # PyTorch's writer reports what it was refused, after the file said why, with an error of
        # its own.
        if isinstance(error.__context__, OSError):
            raise _cannot_write(path, error.__context__) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    files.flush_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files of writes to `path` that were killed; nobody else may be writing
    to it.
    """
    for leftover in path.parent.glob(f'.{path.name}.*.tmp'):
        leftover.unlink(missing_ok=True)


def _read_back(temporary: Path, path: Path) -> None:
    """Compare what is on the disk with the checksums in it."""
    if path.suffix == SAFETENSORS:
        return
    try:
        with zipfile.ZipFile(temporary) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        damaged = 'its end'
    if damaged is not None:
        raise RunError(
            f'{path} was not replaced: {damaged} in the new file reads back otherwise than it was '
            'written; '
            'is the disk failing? The old file is intact'
        )


def _cannot_write(path: Path, error: OSError) -> RunError:
    kept = 'the one there is intact' if os.path.exists(path) else 'there is none yet'
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
    """Read a file of tensors; nothing in it is executed.

    Args:
        path: a file of `torch.save` or safetensors, whatever its name.
        map_location: where to put the tensors.
        types: classes, by their full names, that the file may use besides tensors, numbers,
            strings, lists and dicts.
        mmap: whether tensors stay on the disk until they are used.

    Returns:
        What was saved; of a safetensors file that is no exported model, the tensors by their names.

    Raises:
        ValueError: if the file is missing, truncated, of another format, holds code, or is not a
            dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'no such checkpoint file: {path}')
    if _is_safetensors(path):
        return _load_safetensors(path, map_location)
    with torch.serialization.safe_globals([(cls, name) for name, cls in (types or {}).items()]):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    'ignore', 'Detected pickle protocol'
                )  # a plain pickle: it is refused
                content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except Exception as error:  # damaged bytes may be instructions to the reader for anything
            code = _code(path, error)
            if code:
                raise ValueError(
                    f'{path} holds more than tensors, numbers, strings, lists and dicts: it names '
                    f'{code}. '
                    f'Loading it would run code, which is refused'
                ) from error
            raise ValueError(
                f'{path} cannot be read as a checkpoint: it {_describe(path)}; PyTorch says '
                f'{_reason(error)}'
            ) from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, a checkpoint is a dict')
    return content


def foreign_types(path: str | os.PathLike[str]) -> list[str]:
    """Names of the classes and functions, besides those of tensors, that a PyTorch archive refers
    to; sorted.

    They are read, not imported. Other files, and unreadable ones, give none.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(path)))
    except Exception:  # no archive, or a damaged one: whoever loads it says so
        return []


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training checkpoint of this project, on the CPU.

    Raises:
        ValueError: as `load`, or if the file is of another kind or a newer version.
    """
    content = load(path)
    if content.get('format') != CHECKPOINT_FORMAT:
        raise ValueError(
            f'{path} is not a training checkpoint of audiocodec: its format is '
            f'{content.get("format", "unnamed")!r}, expected {CHECKPOINT_FORMAT!r}'
        )
    return _migrated(content, path)


def _migrated(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """A training checkpoint in the form of the present version."""
    version = content.get('version')
    if not isinstance(version, int) or version < 1:
        raise ValueError(
            f'{path} has no format version that there ever was: {version!r}, expected 1 to '
            f'{CHECKPOINT_VERSION}'
        )
    if version > CHECKPOINT_VERSION:
        raise ValueError(
            f'{path} was written by a newer audiocodec (format version {version}, this one '
            f'reads up to {CHECKPOINT_VERSION}): upgrade the package'
        )
    for step in range(version, CHECKPOINT_VERSION):
        content = _MIGRATIONS[step](content)
    return {**content, 'version': CHECKPOINT_VERSION}


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was written at the end of an epoch only."""
    return {**content, 'position': {}}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


def duplicate(path: Path, copy: Path) -> None:
    """Gives a file another name, whole or not at all, which keeps its bytes when the file itself is
    replaced.

    The two share their place on the disk where the file system has links.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')  # one of `remove_leftovers`
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, copy)
    finally:
        temporary.unlink(missing_ok=True)


def prune(folder: Path, pattern: str, keep: int | None) -> None:
    """Delete all but the `keep` newest of the files `pattern` (with one number for the epoch in
    place of `*`).

    Raises:
        OSError: one cannot be deleted; the others are.
    """
    if keep is None:
        return
    prefix, suffix = pattern.split('*')
    found = [
        path
        for path in folder.glob(pattern)
        if path.name[len(prefix) : len(path.name) - len(suffix)].isdigit()
    ]
    found.sort(key=lambda path: int(path.name[len(prefix) : len(path.name) - len(suffix)]))
    failure = None
    for path in found[: max(0, len(found) - keep)]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def _to_safetensors(content: dict[str, Any]) -> bytes:
    """The bytes of an exported model as safetensors."""
    from safetensors.torch import save as to_bytes

    if content.get('format') != MODEL_FORMAT:
        raise ValueError(
            f'{SAFETENSORS} files hold exported models only, not '
            f'{content.get("format", "unnamed")!r}: '
            f'use another suffix, such as .th'
        )
    metadata = {
        key: value if key in _TEXTS else json.dumps(value)
        for key, value in content.items()
        if key != 'state'
    }
    return to_bytes(
        {name: tensor.detach().cpu().contiguous() for name, tensor in content['state'].items()},
        metadata,
    )


def _is_safetensors(path: Path) -> bool:
    """Whether a file is meant as safetensors: by its name, or because a header in JSON follows its
    own length.
    """
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
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
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
    """Names what a refused file would have executed; empty for other reasons."""
    if 'TorchScript' in str(error):
        return 'a TorchScript program'
    if not isinstance(error, pickle.UnpicklingError):
        return ''
    names = (
        foreign_types(path)
        or _named_in_pickle(path)
        or re.findall(r'(?:GLOBAL|function|module) <?([\w.]+)', str(error))
    )
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def _named_in_pickle(path: Path) -> list[str]:
    """Names of the classes and functions that a plain pickle refers to; read, not imported, as far
    as it is whole.
    """
    names: set[str] = set()
    texts: list[str] = []
    with (
        path.open('rb') as file,
        suppress(Exception),
    ):  # damaged bytes may be instructions to the reader for anything
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ('GLOBAL', 'INST'):
                names.add(str(argument).replace(' ', '.'))
            elif opcode.name == 'STACK_GLOBAL':
                names.add('.'.join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    return sorted(names)


def _reason(error: Exception) -> str:
    """The line of PyTorch's message that says what is wrong."""
    found = re.search(r'WeightsUnpickler error:\s*(.+)', str(error))
    return f'{type(error).__name__}: {found[1] if found else (str(error).splitlines() or [""])[0]}'


def _describe(path: Path) -> str:
    """What an unreadable file seems to be, as the end of a sentence."""
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
    return f'is a text ({size} bytes), which begins with {text[:40]!r}'
