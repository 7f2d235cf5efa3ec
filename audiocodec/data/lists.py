"""Forms of manifests: JSON lines, and lists of files as other programs write them.

| suffix | form |
|---|---|
| `.jsonl`, `.json`, others | an object per line, or a list; NeMo's; recordings and cuts of lhotse |
| `.csv`, `.tsv` | a table with a header; one of the columns in `PATHS`, and those of a manifest |
| `.scp` | Kaldi's `wav.scp`: an identifier and a path per line |
| `.txt`, `.lst`, `.list` | one path per line |
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PATHS = (
    'path',
    'audio_filepath',
    'audio_path',
    'file_path',
    'file_name',
    'filename',
    'file',
    'wav',
)


class Line(NamedTuple):
    """An entry: the number of its line, and its values, or what is wrong with it."""

    number: int
    entry: Any = None
    problem: str | None = None


def parse(path: Path, data: bytes) -> Iterator[Line]:
    """Yield the entries of a manifest.

    Args:
        path: decides the form by its suffix, before '.gz'.
        data: the content.

    Raises:
        ValueError: a table without a column of paths.
    """
    suffix = Path(path.name.lower().removesuffix('.gz')).suffix
    if suffix in ('.csv', '.tsv'):
        yield from _of_table(path, data, ',' if suffix == '.csv' else '\t')
    elif suffix in ('.scp', '.txt', '.lst', '.list'):
        for number, line in _lines(data):
            is_scp = suffix == '.scp'
            yield _of_scp(number, line) if is_scp else Line(number, {'path': _text(line)})
    elif data.lstrip()[:1] == b'[':
        yield from _of_array(data)
    else:
        for number, line in _lines(data):
            yield _of_json(number, line)


def short(value: Any) -> str:
    """Return a value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(data.split(b'\n'), 1):
        if line.strip():
            yield number, line


def _text(line: bytes) -> str:
    """Return a line as text, as the system writes names of files."""
    return line.strip().decode('utf-8', 'surrogateescape')


def _of_json(number: int, line: bytes) -> Line:
    try:
        return _normal(number, json.loads(line))
    except (ValueError, RecursionError) as error:
        text = line.decode('utf-8', 'replace').strip()
        return Line(number, problem=f'not JSON ({error}): {short(text)}')


def _of_array(data: bytes) -> Iterator[Line]:
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        yield Line(1, problem=f'not JSON ({error})')
        return
    for number, entry in enumerate(entries, 1):
        yield _normal(number, entry)


def _normal(number: int, entry: Any) -> Line:
    """Return an entry with the names of this project."""
    if not isinstance(entry, dict):
        return Line(number, entry)  # refused by `AudioMeta.from_dict`
    if 'path' in entry:
        return Line(number, entry)
    is_cut = str(entry.get('type', '')).endswith('Cut')
    if is_cut or 'sources' in entry or 'recording_id' in entry:
        return _of_lhotse(number, entry)
    if 'audio_filepath' in entry:
        entry = {**entry, 'path': entry['audio_filepath']}
    return Line(number, entry)


def _of_lhotse(number: int, entry: dict[str, Any]) -> Line:
    """Return a recording of lhotse, or a cut of one; `speaker` is that of its supervisions."""
    recording = entry if 'sources' in entry else entry.get('recording')
    try:
        if not isinstance(recording, dict):
            what = entry.get('type', 'a supervision')
            raise ValueError(f'{what} of lhotse, which is not the part of one recording')
        source, *others = recording['sources'] or [None]
        if others:
            raise ValueError(f'a recording of lhotse in {1 + len(others)} files')
        if source['type'] != 'file':
            raise ValueError(f'a recording of lhotse in a {source["type"]}, not in a file')
        if recording.get('transforms'):
            names = ', '.join(str(one.get('name')) for one in recording['transforms'])
            raise ValueError(f'a recording of lhotse with transforms ({names})')
        channels = list(source['channels'])
        chosen = entry.get('channel', channels)
        if (chosen if isinstance(chosen, list) else [chosen]) != channels:
            raise ValueError(f'a cut of lhotse with channel {chosen} of {channels}')
        found = {
            'path': source['source'],
            'duration': entry['duration'],
            'sample_rate': recording['sampling_rate'],
            'channels': len(channels),
        }
        if entry['duration'] != recording['duration']:
            found['offset'] = entry['start']
        speakers = {one.get('speaker') for one in entry.get('supervisions', ())} - {None}
    except (KeyError, TypeError, AttributeError):
        return Line(number, problem=f'not as lhotse writes it: {short(entry)}')
    except ValueError as error:
        problem = f'{error}: save its audio (`save_audios`), or write path, offset and duration'
        return Line(number, problem=problem)
    return Line(number, {**found, 'speaker': speakers.pop()} if len(speakers) == 1 else found)


def _of_table(path: Path, data: bytes, delimiter: str) -> Iterator[Line]:
    text = io.StringIO(data.decode('utf-8-sig', 'surrogateescape'), newline='')
    rows = csv.DictReader(text, delimiter=delimiter)
    columns = [name.strip() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    column = next((name for name in PATHS if name in columns), None)
    if column is None:
        raise ValueError(
            f'{path}: the first line of a table names its columns; expected one of '
            f'{", ".join(PATHS)}, got {short(columns)}'
        )
    for row in rows:
        values = {name: value for name, value in row.items() if name in columns and value}
        yield Line(rows.line_num, {**values, 'path': row[column]})


def _of_scp(number: int, line: bytes) -> Line:
    _, _, place = _text(line).partition(' ')
    if place.endswith('|'):
        problem = f'a command in place of a path: {short(place)}; write its output to a file'
        return Line(number, problem=problem)
    if not place:
        return Line(number, problem=f'expected an identifier and a path, got {short(_text(line))}')
    return Line(number, {'path': place.strip()})
