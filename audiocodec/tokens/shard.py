"""Encoding of a shard: reading ahead, batches of items of equal length, writing."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audiocodec.data import AudioMeta, is_address, read_segment
from audiocodec.data.audio import check_samples, read_parts
from audiocodec.data.shards import read_stored
from audiocodec.models import CompressionModel
from audiocodec.models.streaming.long import encoded, joined, takes_parts
from audiocodec.tokens.folder import TokenFolder, created
from audiocodec.tokens.formats import FORMATS, Item
from audiocodec.utils.errors import RunError

_AHEAD = 2  # files that are read while others are encoded
_BATCH_SECONDS = 240.0  # audio in a batch, on a GPU
# Seconds of a file that is read and encoded in parts, on a CPU, and of a part: memory does not grow
# with the length of files.
_LONG, _PART = 600.0, 60.0


class Task(NamedTuple):
    """A shard to make.

    Attributes:
        number: of the shard.
        first: index of its first file in the source.
        metas: its files.
        out: the folder.
        head: settings, see `folder.Settings.head`.
    """

    number: int
    first: int
    metas: Sequence[AudioMeta]
    out: Path
    head: dict[str, Any]


class _Sound(NamedTuple):
    """A file of the shard: its place there, and its waveform [C, T], or why there is none.

    The waveform of a file that is encoded in parts is None.
    """

    place: int
    wav: torch.Tensor | str | None


class StoppedError(Exception):
    """The run ends before the shard is complete."""


@torch.no_grad()
def make_shard(task: Task, model: CompressionModel, advance: Callable[[int, float], None]) -> None:
    """Encode the files of a shard, write it, and record it as complete.

    Args:
        task: the shard.
        model: in eval mode, on the device to use.
        advance: called with the number of files that are done, and seconds of their audio; an
            exception from it ends the shard.

    Raises:
        OSError: the shard cannot be written.
    """
    items: list[Item | None] = [None] * len(task.metas)
    skipped: dict[int, str] = {}
    for batch in _batches(_sounds(task.metas, model), model):
        for place, result in _encode_batch(batch, task, model):
            if isinstance(result, Item):
                items[place] = result
            else:
                skipped[place] = result
        advance(len(batch), sum(task.metas[sound.place].duration for sound in batch))
    found = [item for item in items if item is not None]
    path = task.out / f'{task.number:06d}{FORMATS[task.head["format"]].suffix}'
    offsets = _write(path, found, task.head) if found else []
    entries = [
        {**item.info, 'shard': path.name, 'offset': offset} for item, offset in zip(found, offsets)
    ]
    record = {
        'shard': path.name,
        'bytes': path.stat().st_size if found else 0,
        'files': entries,
        'skipped': [
            {'path': task.metas[place].path, 'reason': reason}
            for place, reason in sorted(skipped.items())
        ],
    }
    TokenFolder(task.out).add_shard(task.number, record)


def _encode_batch(
    batch: Sequence[_Sound], task: Task, model: CompressionModel
) -> Iterator[tuple[int, Item | str]]:
    """Yield place and tokens of each file of a batch, or why it has none.

    Raises:
        RunError: the model fails, e.g. for lack of memory.
    """
    if isinstance(batch[0].wav, str):
        yield batch[0].place, batch[0].wav
        return
    wavs = [sound.wav for sound in batch if isinstance(sound.wav, torch.Tensor)]
    metas = [task.metas[sound.place] for sound in batch]
    try:
        if wavs:
            codes, scale = _encode(model, torch.stack(wavs))
            samples = wavs[0].shape[-1]
        else:
            codes, scale, samples = _encode_parts(model, metas[0].path)
    except (ValueError, OSError) as error:
        yield from ((one.place, _reason(meta.path, error)) for one, meta in zip(batch, metas))
        return
    except RuntimeError as error:
        raise RunError(
            f'{metas[0].path} ({metas[0].duration:.1f} s): cannot be encoded: {error}. Complete '
            'shards are kept: run the same command again'
        ) from error
    for row, (sound, meta) in enumerate(zip(batch, metas)):
        info = _info(meta, samples, model)
        info['frames'] = codes.shape[2]
        if scale is not None:
            info['scale'] = scale[row].tolist()
        array = codes[row].cpu().numpy().astype(task.head['dtype'])
        yield sound.place, Item(task.first + sound.place, array, info)


def _encode(model: CompressionModel, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return codes and scale of items [B, C, T]."""
    return model.encode(wav.to(next(model.parameters()).device))


def _encode_parts(
    model: CompressionModel, path: str
) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Return codes and scale of a file, and its number of samples."""
    samples = 0

    def parts() -> Iterator[torch.Tensor]:
        nonlocal samples
        size = round(_PART * model.sample_rate)
        for wav in read_parts(path, size, model.sample_rate, model.channels):
            samples += wav.shape[-1]
            yield wav[None]

    codes, scale = joined(encoded(model, parts()))
    return codes, scale, samples


def _info(meta: AudioMeta, samples: int, model: CompressionModel) -> dict[str, Any]:
    """Return the entry of a file in the index, as far as it does not depend on its codes."""
    return {
        'path': meta.path,
        'duration': samples / model.sample_rate,
        'sample_rate': meta.sample_rate,
        'samples': samples,
    }


def _sounds(metas: Sequence[AudioMeta], model: CompressionModel) -> Iterator[_Sound]:
    """Read the files in a thread while others are encoded, the shortest first."""
    places = sorted(range(len(metas)), key=lambda place: metas[place].duration)
    longest = _longest(metas, model)
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[_Sound]] = deque()
        for place in places:
            waiting.append(pool.submit(_read, place, metas[place], model, longest))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _longest(metas: Sequence[AudioMeta], model: CompressionModel) -> float:
    """Return the seconds of a file above which it is encoded in parts."""
    on_cpu = next(model.parameters()).device.type == 'cpu'
    any_long = any(meta.duration > _LONG for meta in metas)
    return _LONG if any_long and on_cpu and takes_parts(model) else math.inf


def _read(place: int, meta: AudioMeta, model: CompressionModel, longest: float) -> _Sound:
    path = meta.path
    try:
        if is_address(path):
            wav = read_stored(path, 0, -1, model.channels)
        elif meta.duration > longest:
            return _Sound(place, None)
        else:
            wav = read_segment(path, 0, -1, model.sample_rate, model.channels)
        check_samples(wav, path)
    except (ValueError, OSError) as error:
        return _Sound(place, _reason(path, error))
    return _Sound(place, wav)


def _reason(path: str, error: Exception) -> str:
    return str(error) if path in str(error) else f'{path}: {error}'


def _batches(sounds: Iterator[_Sound], model: CompressionModel) -> Iterator[list[_Sound]]:
    """Group consecutive files of equal length.

    On a CPU, each is alone: a batch is not faster, and rounds otherwise than its items do.
    """
    alone = next(model.parameters()).device.type == 'cpu'
    batch: list[_Sound] = []
    for sound in sounds:
        if batch and (alone or not _fits(sound, batch, model.sample_rate)):
            yield batch
            batch = []
        batch.append(sound)
    if batch:
        yield batch


def _fits(sound: _Sound, batch: Sequence[_Sound], sample_rate: int) -> bool:
    first = batch[0].wav
    if not isinstance(sound.wav, torch.Tensor) or not isinstance(first, torch.Tensor):
        return False
    samples = (len(batch) + 1) * sound.wav.shape[-1]
    return sound.wav.shape == first.shape and samples <= _BATCH_SECONDS * sample_rate


def _write(path: Path, items: Sequence[Item], head: dict[str, Any]) -> list[int]:
    with created(path) as file:
        return FORMATS[head['format']].write(file, items, json.dumps(head))
