"""Audio files: metadata, reading of segments, writing, conversion of sample rate and channels.

Every problem with a file raises a ValueError that names it.
"""

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from audiocodec.data.channels import convert_channels
from audiocodec.data.readers import Reader, open_audio
from audiocodec.data.readers.sndfile import as_bytes
from audiocodec.dsp.loudness import normalize
from audiocodec.dsp.resample import resample, resampler
from audiocodec.utils import files

# absolute sample value above which audio is not scaled to [-1, 1] (decoded loud music reaches 2)
LOUDEST = 10.0
_SYSTEM_ERROR = 2  # libsndfile's code for errors of the system: no space, no permission

# Format, subtype and further options of soundfile for each suffix. MP3 uses a variable bit rate:
# LAME writes constant-rate MP3 5 % too quiet below 32 kHz.
_WRITERS: dict[str, tuple[str, str, dict[str, float | str]]] = {
    '.wav': ('WAV', 'PCM_16', {}),
    '.flac': ('FLAC', 'PCM_16', {}),
    '.ogg': ('OGG', 'VORBIS', {}),
    '.mp3': ('MP3', 'MPEG_LAYER_III', {'compression_level': 0.0, 'bitrate_mode': 'VARIABLE'}),
}


@dataclass(frozen=True)
class AudioInfo:
    """Sample rate (Hz), frames (samples per channel) and channels of a file."""

    sample_rate: int
    frames: int
    channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | os.PathLike[str], check_end: bool = False) -> AudioInfo:
    """Return sample rate, length and channels of a file.

    Args:
        path: the file.
        check_end: also read the last samples, and raise if the file is truncated. A length that is
            an estimate, as of some MP3, is measured.

    Raises:
        ValueError: no such file, not audio, empty, or (with `check_end`) truncated.
    """
    with open_audio(path) as reader:
        frames = reader.frames
        if check_end and not reader.is_exact:
            frames = _measured_frames(reader)
        elif check_end and frames > 0 and not len(reader.read(frames - 1, 1)):
            raise ValueError(f'{reader.path}: is truncated: the header says {frames} samples')
        if frames <= 0:
            raise ValueError(f'{reader.path}: contains no samples')
        return AudioInfo(reader.sample_rate, frames, reader.channels)


def _measured_frames(reader: Reader) -> int:
    """Measure an estimated length: decode the expected end or, if nothing is there, everything."""
    position = max(0, reader.frames - 2 * 1152)
    found = len(reader.read(position, 4 * 1152))
    if found == 0 and position > 0:
        position = 0
        while found := len(reader.read(position, 2**18)):
            position += found
    return position + found


def read_audio(
    path: str | os.PathLike[str], start: int = 0, frames: int = -1
) -> tuple[torch.Tensor, int]:
    """Read a segment of a file by seeking; bit-identical to slicing the whole file.

    Args:
        path: the file.
        start: first sample.
        frames: number of samples, fewer at the end of the file; -1 for the rest of the file.

    Returns:
        float32 [C, T] and the sample rate (Hz).

    Raises:
        ValueError: no such file, not audio, truncated, or `start` at or after its end.
    """
    with open_audio(path) as reader:
        total = reader.frames
        if not 0 <= start < total:
            raise ValueError(
                f'{reader.path}: cannot read from sample {start}: it has {total} samples'
            )
        frames = total - start if frames < 0 else min(frames, total - start)
        return _read(reader, start, frames), reader.sample_rate


def _read(reader: Reader, start: int, frames: int) -> torch.Tensor:
    """Return samples [start, start + frames) of an open file, float32 [C, T]."""
    data = reader.read(start, frames)
    # a length may be an estimate; other files must contain what their header says
    if len(data) < frames and (reader.is_exact or len(data) == 0):
        raise ValueError(
            f'{reader.path}: is truncated: {len(data)} of {frames} samples from sample {start}'
        )
    return torch.from_numpy(data.T.copy())


def read_segment(
    path: str | os.PathLike[str],
    start: int,
    frames: int,
    sample_rate: int,
    channels: int | None = None,
    downmix: str = 'mean',
) -> torch.Tensor:
    """Read a segment of a file and convert its sample rate and channels.

    The result equals converting the whole file and slicing: the resampling filter sees the samples
    around the segment.

    Args:
        path: the file.
        start: first sample, counted at `sample_rate`.
        frames: number of samples at `sample_rate`, fewer at the end of the file; -1 for the rest
            of the file.
        sample_rate: sample rate of the result (Hz).
        channels: channels of the result; None to keep those of the file.
        downmix: see `convert_channels`; the loudest channel is that of the segment.

    Returns:
        float32 [C, T], T <= frames.
    """
    with open_audio(path) as reader:
        total, from_rate = reader.frames, reader.sample_rate
        try:
            filters = resampler(from_rate, sample_rate)
        except ValueError as error:
            raise ValueError(f'{os.fspath(path)}: {error}') from error
        left = filters.length(total) - start
        if start < 0 or left <= 0:
            raise ValueError(
                f'{os.fspath(path)}: cannot read from {start / sample_rate:.2f} s: '
                f'it is {total / from_rate:.2f} s long'
            )
        frames = left if frames < 0 else min(frames, left)
        first, last = filters.source_range(start, frames, total)
        wav = _read(reader, first, last - first)
    if first + wav.shape[-1] < last:  # an MP3 that ends before its estimated length
        frames = min(frames, filters.length(first + wav.shape[-1]) - start)
        if frames <= 0:
            raise ValueError(
                f'{os.fspath(path)}: is truncated: it ends before {start / sample_rate:.2f} s'
            )
    if channels is not None and wav.shape[0] not in (1, channels):  # first: fewer to filter
        try:
            wav = convert_channels(wav, channels, downmix)
        except ValueError as error:
            raise ValueError(f'{os.fspath(path)}: {error}') from error
    wav = filters.segment(wav, start, frames)
    return wav if channels is None else convert_channels(wav, channels)


def read_parts(
    path: str | os.PathLike[str], frames: int, sample_rate: int, channels: int | None = None
) -> Iterator[torch.Tensor]:
    """Read a file of any length in parts, which together equal `read_segment` of the whole.

    Args:
        path: the file.
        frames: number of samples of a part at `sample_rate`, fewer in the last one.
        sample_rate: sample rate of the result (Hz).
        channels: channels of the result; None to keep those of the file.

    Yields:
        float32 [C, T], T <= frames.

    Raises:
        ValueError: the file cannot be read, is empty, or a part fails `check_samples`.
    """
    info = audio_info(path, check_end=True)
    total = resampler(info.sample_rate, sample_rate).length(info.frames)
    if total == 0:
        raise ValueError(f'{os.fspath(path)}: has no sample at {sample_rate} Hz')
    for start in range(0, total, frames):
        wav = read_segment(path, start, frames, sample_rate, channels)
        check_samples(wav, path)
        yield wav


def check_samples(wav: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Raise a ValueError that names the file if samples are NaN, Inf, or far outside [-1, 1]."""
    loudest = wav.abs().max().item() if wav.numel() else 0.0
    if not loudest <= LOUDEST:  # written so that NaN fails too
        what = (
            f'a sample of {loudest:.4g}; expected -1 to 1'
            if math.isfinite(loudest)
            else 'NaN or Inf'
        )
        raise ValueError(f'{os.fspath(path)}: contains {what}')


def convert_audio(wav: torch.Tensor, from_rate: int, to_rate: int, channels: int) -> torch.Tensor:
    """Resample and convert channels.

    Args:
        wav: [..., C, T] at `from_rate` (Hz).
        from_rate: sample rate of `wav`.
        to_rate: sample rate of the result.
        channels: channels of the result.

    Returns:
        [..., channels, T * to_rate // from_rate].
    """
    if channels == 1:
        wav = convert_channels(wav, 1)
    return convert_channels(resample(wav, from_rate, to_rate), channels)


def write_audio(
    path: str | os.PathLike[str],
    wav: torch.Tensor,
    sample_rate: int,
    strategy: str = 'clip',
    headroom_db: float | None = None,
) -> Path:
    """Write an audio file atomically, in the format of its suffix.

    WAV and FLAC are written with 16 bits, OGG as Vorbis, MP3 at the best variable bit rate.

    Args:
        path: ends in .wav, .flac, .ogg or .mp3; missing folders are created.
        wav: [C, T] or [T], floating point, on any device.
        sample_rate: in Hz.
        strategy: level, see `loudness.normalize`: clip, peak, rms, loudness or none.
        headroom_db: see `loudness.normalize`.

    Returns:
        The path written.

    Raises:
        ValueError: unknown suffix or strategy, wrong shape, NaN or Inf, or a sample rate or number
            of channels that the format does not support.
        OSError: the disk is full or the folder is not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(
            f'{path}: cannot write {path.suffix or "a file without a suffix"}; '
            f'use one of {", ".join(_WRITERS)}'
        )
    wav = wav.detach().float().cpu()
    wav = wav[None] if wav.dim() == 1 else wav
    if wav.dim() != 2 or wav.shape[0] == 0:
        raise ValueError(
            f'{path}: expected audio of shape [channels, samples], got {list(wav.shape)}'
        )
    if not wav.isfinite().all():
        raise ValueError(f'{path}: the audio to write contains NaN or Inf')
    data = normalize(wav, sample_rate, strategy, headroom_db).T.contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            files.replaced(path) as temporary,
            _created(path, temporary, sample_rate, len(wav)) as file,
        ):
            # in pieces: libvorbis copies what it gets in one call to the stack
            for begin in range(0, len(data), 2**16):
                file.write(data[begin : begin + 2**16])
    except RuntimeError as error:  # libsndfile does not say why
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f'{path}: could not be written ({free:.1f} MB free on the disk): {error}'
        ) from error
    return path


def _created(path: Path, temporary: Path, sample_rate: int, channels: int) -> soundfile.SoundFile:
    """Create a file at `temporary`, in the format of the suffix of `path`."""
    name, subtype, options = _WRITERS[path.suffix.lower()]
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f'{path.parent}: is not writable')
    try:
        return soundfile.SoundFile(
            as_bytes(temporary), 'w', sample_rate, channels, subtype, format=name, **options
        )
    except soundfile.LibsndfileError as error:
        if error.code == _SYSTEM_ERROR:
            raise
        raise ValueError(
            f'{path}: {name} does not support {channels} channels at {sample_rate} Hz'
        ) from error
