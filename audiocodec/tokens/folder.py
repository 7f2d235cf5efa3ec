"""Folder of tokens: its files, what they are of, and what is missing in an interrupted one.

A complete folder contains

    tokens.json             settings (see `Settings`), totals, and the size of each shard
    index.jsonl             an entry per file, in the order of the source
    skipped.jsonl           path and reason of each file that could not be read, if there are any
    000000.safetensors ...  the codes of consecutive files of the source

and an incomplete one, instead of the first three, `unfinished/` with the settings and a record of
each shard that is complete.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from audiocodec import __version__
from audiocodec.utils import files

HEAD, INDEX, SKIPPED = 'tokens.json', 'index.jsonl', 'skipped.jsonl'
_FORMAT = 'audiocodec tokens 1'
_UNFINISHED = 'unfinished'
_SETTINGS = 'settings.json'
_NOT_COMPARED = ('model', 'audiocodec')  # names of the same thing


@dataclass(frozen=True)
class Settings:
    """What the tokens of a folder depend on.

    Attributes:
        model: its name.
        fingerprint: hash of its weights.
        sample_rate: of its input, Hz.
        channels: of its input.
        hop_length: samples per frame.
        frame_rate: frames per second.
        cardinality: entries of each codebook.
        kbps: bit rate of the codes.
        num_codebooks: K.
        dtype: of the codes in the files, uint16 or int32.
        format: see `formats.FORMATS`.
        shard_minutes: audio in a shard; None: not known yet.
        source: hash of the list of files; None: not known yet.
    """

    model: str
    fingerprint: str
    sample_rate: int
    channels: int
    hop_length: int
    frame_rate: float
    cardinality: int
    kbps: float
    num_codebooks: int
    dtype: str
    format: str
    shard_minutes: float | None
    source: str | None = None

    def head(self) -> dict[str, Any]:
        """Return the settings as they are written."""
        return {'version': _FORMAT, 'audiocodec': __version__, **asdict(self)}


class TokenFolder:
    """A folder of tokens that is being written, or complete.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = path / _UNFINISHED

    @property
    def is_complete(self) -> bool:
        """Whether the tokens of all files are there."""
        return (self.path / HEAD).exists()

    def check(self, settings: Settings) -> None:
        """Check that the folder is new, or has tokens of the same settings.

        What is not known yet fits anything.

        Raises:
            ValueError: it has other tokens, or other files; names the difference.
        """
        place = self.path / HEAD if self.is_complete else self._parts / _SETTINGS
        if not place.exists():
            files.check_out(self.path, folder=True)
            others = os.listdir(self.path) if self.path.exists() else []
            found = [name for name in others if name not in ('.lock', _UNFINISHED)]
            if found:
                raise ValueError(
                    f'{self.path}: has other files, such as {sorted(found)[:1]}: give a new folder'
                )
            return
        old, new = json.loads(place.read_bytes()), settings.head()
        for key, value in new.items():
            if key in _NOT_COMPARED or value is None or old.get(key) == value:
                continue
            what = f'{key}={json.dumps(old.get(key))}, and this command has {json.dumps(value)}'
            if key == 'source':
                what = 'another list of files: the source has changed since, or is another one'
            raise ValueError(f'{self.path} has tokens of {what}: use another folder, or remove it')

    def begin(self, settings: Settings) -> None:
        """Create what is missing, and remove what killed processes have left; needs the lock."""
        self._parts.mkdir(exist_ok=True)
        if not (self._parts / _SETTINGS).exists():
            _write(self._parts / _SETTINGS, [_json(settings.head())])
        for folder in (self.path, self._parts):
            for left in folder.glob('.*.tmp'):
                left.unlink(missing_ok=True)

    def has_shard(self, number: int) -> bool:
        """Return whether a shard is complete."""
        return self._record(number).exists()

    def add_shard(self, number: int, record: dict[str, Any]) -> None:
        """Write the record of a shard, which makes it complete.

        Args:
            number: of the shard.
            record: `shard` (file name), `bytes`, `files` (entries of the index), `skipped`.
        """
        files.flush_folder(self.path)
        _write(self._record(number), [_json(record)])

    def records(self, shards: int) -> Iterator[dict[str, Any]]:
        """Yield the records of all shards."""
        for number in range(shards):
            yield json.loads(self._record(number).read_bytes())

    def finish(self, settings: Settings, shards: int) -> None:
        """Write index and head from the records of all shards, which are removed."""
        totals: dict[str, Any] = {'files': 0, 'skipped': 0, 'frames': 0, 'seconds': 0.0}
        sizes = {}
        for record in self.records(shards):
            totals['files'] += len(record['files'])
            totals['skipped'] += len(record['skipped'])
            totals['frames'] += sum(entry['frames'] for entry in record['files'])
            totals['seconds'] += sum(entry['duration'] for entry in record['files'])
            if record['files']:
                sizes[record['shard']] = record['bytes']
        for name, key in ((INDEX, 'files'), (SKIPPED, 'skipped')):
            entries = (entry for record in self.records(shards) for entry in record[key])
            if key == 'files' or totals[key]:
                _write(self.path / name, map(_json, entries))
        head = {**settings.head(), **totals, 'shards': sizes}
        files.flush_folder(self.path)
        _write(self.path / HEAD, [json.dumps(head, indent=1).encode() + b'\n'])
        self.clean()

    def clean(self) -> None:
        """Remove the records of a complete folder."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def _record(self, number: int) -> Path:
        return self._parts / f'{number:06d}.json'


def read_head(folder: Path) -> dict[str, Any]:
    """Return the content of `tokens.json`.

    Raises:
        ValueError: the folder has no complete tokens.
    """
    try:
        head: dict[str, Any] = json.loads((folder / HEAD).read_bytes())
    except FileNotFoundError:
        if (folder / _UNFINISHED).exists():
            text = 'its tokens are not complete: run the same audiocodec tokens command again'
        else:
            text = f'no folder of tokens ({HEAD} is missing): make one with audiocodec tokens'
        raise ValueError(f'{folder}: {text}') from None
    if head.get('version') != _FORMAT:
        raise ValueError(
            f'{folder}: expected version {_FORMAT!r}, got {head.get("version")!r}: make it again'
        )
    return head


@contextmanager
def created(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write; after an error or a crash, it is complete or absent."""
    with files.replaced(path) as temporary, open(temporary, 'wb') as file:
        yield file
        files.flush(file)


def _write(path: Path, lines: Sequence[bytes] | Iterator[bytes]) -> None:
    with created(path) as file:
        file.writelines(lines)
    files.flush_folder(path.parent)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b'\n'
