"""What is wrong with one audio file: decoded from beginning to end, in blocks, so that its length
does not matter.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiocodec.data.audio import LOUDEST, decode, open_audio
from audiocodec.data.doctor.header import header_problem, promised_frames
from audiocodec.data.doctor.spectrum import LongTermSpectrum
from audiocodec.data.manifest import AudioMeta

# What can be wrong, in the order in which it is reported. Errors break training or teach it what is
# not there.
ERRORS = {
    'manifest': 'manifest lines that cannot be read',
    'missing': 'there is no such file',
    'unreadable': 'not audio, or a damaged header',
    'empty': 'without a sample',
    'truncated': 'shorter than the header or the manifest says',
    'header': 'the header contradicts itself or what follows it',
    'mismatch': 'sample rate, channels or length in the manifest are not those of the file',
    'nonfinite': 'samples that are NaN or Inf',
    'scale': 'samples far beyond [-1, 1]: not scaled to it',
}
WARNINGS = {
    'suffix': 'content of another format than the suffix',
    'silent': 'silence from beginning to end',
    'mostly_silent': 'silence for the most part',
    'clipping': 'runs of samples at full scale',
    'bandwidth': 'energy ends well below half the sample rate: upsampled or of a low bitrate',
    'duplicate': 'equal samples as another file',
}
KINDS = {**ERRORS, **WARNINGS}

_BLOCK = 2**16  # samples (all channels together, times two) worked on at a time
_PIECE = 2**12  # frames decoded at a time: where a damaged file ends is known to within so many
_WINDOW = 0.05  # seconds, over which the level is measured
_TOLERANCE = 0.1  # seconds by which the manifest may be wrong: lengths of MP3 are often estimates
_FORMATS = {
    '.wav': ('WAV', 'WAVEX', 'RF64'),
    '.flac': ('FLAC',),
    '.ogg': ('OGG',),
    '.oga': ('OGG',),
    '.opus': ('OGG',),
    '.mp3': ('MP3',),
    '.aif': ('AIFF',),
    '.aiff': ('AIFF',),
}


@dataclass(frozen=True)
class Limits:
    """From where on something counts as a problem.

    Attributes:
        silence_db: level (dBFS, over 50 ms) below which it is silent.
        silent_share: share of silence that makes a file 'mostly_silent'.
        clipping: share of samples in runs of 3 or more at full scale.
        bandwidth: share of half the sample rate that the energy has to reach.
        sample_rate: of the training to come (Hz): the bandwidth is judged up to half of it; None:
            each file's own.
    """

    silence_db: float = -60.0
    silent_share: float = 0.8
    clipping: float = 1e-4
    bandwidth: float = 0.7
    sample_rate: int | None = None


@dataclass
class Problem:
    """Something wrong with a file: one of `KINDS`, in words, and how bad it is (comparable within a
    kind).
    """

    kind: str
    detail: str
    severity: float = 0.0


@dataclass
class Examined:
    """What was found in one file; measures are None where the file could not be decoded."""

    path: str
    problems: list[Problem] = field(default_factory=list)
    duration: float = 0.0
    sample_rate: int | None = None
    channels: int | None = None
    amplitude: float | None = None
    silence: float | None = None
    clipping: float | None = None
    cutoff: float | None = None
    digest: str | None = None

    def add(self, kind: str, detail: str, severity: float = 0.0) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, detail, severity))

    @property
    def has_error(self) -> bool:
        """Whether one of the problems is an error."""
        return any(problem.kind in ERRORS for problem in self.problems)


class _Level:
    """Peak, silence and clipping of audio that comes in blocks."""

    def __init__(self, sample_rate: int, silence_db: float, full_scale: float) -> None:
        self.window = max(1, round(_WINDOW * sample_rate))
        self.power = 10 ** (silence_db / 10)
        self.full_scale = full_scale
        self.peak, self.silent, self.windows, self.clipped, self.samples = 0.0, 0, 0, 0, 0
        self._rest: np.ndarray | None = None
        self._before: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, float32 [T, C]."""
        self.samples += block.size
        loud = np.abs(block)
        self.peak = max(self.peak, float(loud.max()))
        self._count_clipped(loud >= self.full_scale)
        wav = block if self._rest is None else np.concatenate([self._rest, block])
        whole = len(wav) // self.window * self.window
        self._count_silent(wav[:whole].reshape(-1, self.window, wav.shape[1]))
        self._rest = wav[whole:].copy()

    def finish(self) -> None:
        """Count the last, shorter window, unless there were others."""
        if self.windows == 0 and self._rest is not None and len(self._rest):
            self._count_silent(self._rest[None])

    def _count_silent(self, windows: np.ndarray) -> None:
        # the variance: a constant is silent too
        self.silent += (
            int((windows.var(1, dtype=np.float64).max(-1) < self.power).sum())
            if len(windows)
            else 0
        )
        self.windows += len(windows)

    def _count_clipped(self, full: np.ndarray) -> None:
        """Samples in runs of at least 3: the third of a run counts for three, each one after it for
        one.
        """
        before = (
            self._before if self._before is not None else np.zeros((3, full.shape[1]), dtype=bool)
        )
        if full.any() or before.any():
            mask = np.concatenate([before, full])
            third = mask[3:] & mask[2:-1] & mask[1:-2]
            self.clipped += int(third.sum() + 2 * (third & ~mask[:-3]).sum())
        self._before = np.concatenate([before, full[-3:]])[-3:]


def examine(meta: AudioMeta | str, limits: Limits) -> Examined:
    """Everything that is wrong with a file, except that it is a duplicate, which takes two.

    Args:
        meta: its manifest entry, or its path alone.
        limits: what counts as a problem.
    """
    path = meta if isinstance(meta, str) else meta.path
    found = Examined(path)
    if not os.path.exists(path):
        found.add('missing', 'there is no such file')
    elif os.path.isfile(path) and os.path.getsize(path) == 0:
        found.add('empty', 'a file of 0 bytes')
    else:
        try:
            with open_audio(path) as file:
                _decode(file, found, limits)
        except ValueError as error:
            found.add('unreadable', str(error).removeprefix(f'{path}: '))
    if isinstance(meta, AudioMeta) and found.sample_rate is not None:
        _compare(meta, found)
    return found


def _decode(file: soundfile.SoundFile, found: Examined, limits: Limits) -> None:
    """Measure an open file, and note what is wrong with it."""
    found.sample_rate, found.channels = file.samplerate, file.channels
    suffix = Path(found.path).suffix.lower()
    if suffix in _FORMATS and file.format not in _FORMATS[suffix]:
        found.add('suffix', f'the content is {file.format}, the suffix {suffix}')
    contradiction = header_problem(file)
    if contradiction:
        found.add('header', contradiction)
    if file.frames <= 0:
        if not contradiction:
            found.add('empty', 'its header gives 0 samples')
        return
    level = _Level(
        file.samplerate, limits.silence_db, 0.99 if file.subtype in ('PCM_U8', 'PCM_S8') else 0.999
    )
    spectrum = LongTermSpectrum(file.samplerate)
    digest = hashlib.blake2b(f'{file.samplerate} {file.channels}'.encode(), digest_size=16)
    decoded = bad = 0
    reason: list[str] = []
    for block in _blocks(file, reason):
        decoded += len(block)
        if not np.isfinite(block).all():
            bad += int((~np.isfinite(block)).sum())
            block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
        digest.update((block + 0.0).tobytes())  # -0.0 is 0.0
        level.add(block)
        spectrum.add(
            block if level.peak <= LOUDEST else block.clip(-LOUDEST, LOUDEST)
        )  # whose square is a number
    level.finish()
    found.duration = decoded / file.samplerate
    promised = promised_frames(file, decoded)
    if promised is None:
        found.add('truncated', f'the stream breaks off after {found.duration:.2f} s', math.inf)
    elif decoded < promised:
        why = f' ({reason[0]})' if reason and reason[0] else ''
        length = promised / file.samplerate
        found.add(
            'truncated',
            f'holds {found.duration:.2f} of the {length:.2f} s in its header{why}',
            1 - decoded / promised,
        )
    if bad:
        found.add('nonfinite', f'{bad} samples are NaN or Inf', bad)
    if not decoded:
        return
    found.amplitude, found.digest, found.cutoff = level.peak, digest.hexdigest(), spectrum.cutoff()
    if level.peak > LOUDEST:
        found.add('scale', f'its largest sample is {level.peak:.4g}', level.peak)
    found.silence, found.clipping = level.silent / level.windows, level.clipped / level.samples
    _judge(found, limits)


def _blocks(file: soundfile.SoundFile, reason: list[str]) -> Iterator[np.ndarray]:
    """Yields samples, float32 [T, C], up to what cannot be decoded; `reason` gets the error."""
    at_once = max(1, 2 * _BLOCK // file.channels // _PIECE)
    ended = False
    while not ended:
        pieces: list[np.ndarray] = []
        while len(pieces) < at_once and not ended:
            try:
                pieces.append(decode(file, _PIECE))
                ended = len(pieces[-1]) == 0
            except RuntimeError as error:
                reason.append(str(error).strip(' .'))
                ended = True
        if sum(map(len, pieces)):
            yield np.concatenate(pieces)


def _judge(found: Examined, limits: Limits) -> None:
    """Silence, clipping and bandwidth against the limits."""
    assert found.silence is not None
    assert found.clipping is not None
    assert found.sample_rate is not None
    if found.silence == 1:
        found.add(
            'silent',
            f'all of its {found.duration:.2f} s are below {limits.silence_db:g} dBFS',
            found.duration,
        )
        return
    if found.silence >= limits.silent_share:
        found.add(
            'mostly_silent',
            f'{found.silence:.0%} of {found.duration:.2f} s are below {limits.silence_db:g} dBFS',
            found.silence,
        )
    if found.clipping >= limits.clipping:
        found.add(
            'clipping',
            f'{found.clipping:.2%} of the samples are at full scale, in runs',
            found.clipping,
        )
    half = found.sample_rate / 2
    wanted = half if limits.sample_rate is None else limits.sample_rate / 2
    reach = half if found.cutoff is None else found.cutoff
    if reach < limits.bandwidth * wanted:
        found.add(
            'bandwidth',
            f'energy ends at {reach / 1000:.1f} kHz of {wanted / 1000:g} kHz',
            1 - reach / wanted,
        )


def _compare(meta: AudioMeta, found: Examined) -> None:
    """Note where the manifest differs from the file."""
    differs: list[Any] = []
    if meta.sample_rate != found.sample_rate:
        differs.append(f'{meta.sample_rate} Hz, the file {found.sample_rate} Hz')
    if meta.channels not in (None, found.channels):
        differs.append(f'{meta.channels} channels, the file {found.channels}')
    short = meta.duration - found.duration
    if short < -_TOLERANCE:
        differs.append(f'{meta.duration:.2f} s, the file {found.duration:.2f} s')
    kinds = {problem.kind for problem in found.problems}
    if short > _TOLERANCE and found.duration > 0 and 'truncated' not in kinds:
        found.add(
            'truncated',
            f'holds {found.duration:.2f} of the {meta.duration:.2f} s in the manifest',
            short / meta.duration,
        )
    if differs:
        found.add('mismatch', f'the manifest says {"; ".join(differs)}', len(differs))
