"""Checks of one audio file, decoded completely, in blocks, so that memory use is constant."""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audiocodec.data.audio import LOUDEST
from audiocodec.data.channels import MOST_CHANNELS
from audiocodec.data.doctor.header import header_problem, promised_frames
from audiocodec.data.doctor.spectrum import LongTermSpectrum
from audiocodec.data.manifest import AudioMeta
from audiocodec.data.readers import Reader, file_of, open_audio

# Kinds of problems, in the order of the report. Errors stop training, or make it learn artifacts.
ERRORS = {
    'manifest': 'invalid manifest lines',
    'missing': 'no such file',
    'unreadable': 'not audio, or a damaged header',
    'empty': 'no samples',
    'truncated': 'shorter than the header or the manifest says',
    'header': 'inconsistent header',
    'mismatch': 'sample rate, channels or length differ from the manifest',
    'nonfinite': 'samples that are NaN or Inf',
    'scale': 'samples far outside [-1, 1]',
}
WARNINGS = {
    'suffix': 'the suffix does not match the format',
    'silent': 'completely silent',
    'mostly_silent': 'mostly silent',
    'opposed': 'left and right cancel each other in mono',
    'layout': 'more channels than can be mixed to stereo',
    'clipping': 'runs of samples at full scale',
    'bandwidth': 'energy ends well below half the sample rate: upsampled, or low bitrate',
    'duplicate': 'same samples as another file',
}
KINDS = {**ERRORS, **WARNINGS}

_BLOCK = 2**16  # a block to measure has twice as many samples, all channels together
_PIECE = 2**12  # frames decoded at a time: the resolution to which the end of a bad file is found
_WINDOW = 0.05  # seconds, over which the level is measured
_TOLERANCE = 0.1  # seconds by which the manifest may be off: lengths of MP3 are often estimates
_FORMATS = {
    **dict.fromkeys(('.wav', '.wave', '.bwf'), ('WAV', 'WAVEX', 'RF64')),
    **dict.fromkeys(('.ogg', '.oga', '.ogv', '.opus'), ('OGG',)),
    **dict.fromkeys(('.mp3', '.mp2'), ('MP3',)),
    **dict.fromkeys(('.aif', '.aiff', '.aifc'), ('AIFF',)),
    **dict.fromkeys(('.au', '.snd'), ('AU',)),
    '.flac': ('FLAC',),
    '.caf': ('CAF',),
    '.w64': ('W64',),
}


@dataclass(frozen=True)
class Limits:
    """Thresholds above or below which something counts as a problem.

    Attributes:
        silence_db: level (dBFS, over 50 ms) below which audio counts as silent.
        silent_share: fraction of silence from which a file is 'mostly_silent'.
        opposed: fraction of the power of left and right that is left in their mean.
        clipping: fraction of samples in runs of 3 or more at full scale.
        bandwidth: fraction of half the sample rate that the energy must reach.
        sample_rate: sample rate of the training (Hz), by which the bandwidth is checked; None for
            that of each file.
    """

    silence_db: float = -60.0
    silent_share: float = 0.8
    opposed: float = 0.05
    clipping: float = 1e-4
    bandwidth: float = 0.7
    sample_rate: int | None = None


@dataclass
class Problem:
    """Problem of a file: one of `KINDS`, a description, and a severity (comparable in its kind)."""

    kind: str
    detail: str
    severity: float = 0.0


@dataclass
class Examined:
    """Findings on one file; measures are None if the file could not be decoded."""

    path: str
    problems: list[Problem] = field(default_factory=list)
    duration: float = 0.0
    sample_rate: int | None = None
    channels: int | None = None
    amplitude: float | None = None
    silence: float | None = None
    mono: float | None = None
    clipping: float | None = None
    cutoff: float | None = None
    digest: str | None = None

    def add(self, kind: str, detail: str, severity: float = 0.0) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, detail, severity))

    def has(self, kind: str) -> bool:
        """Return whether there is a problem of a kind."""
        return any(problem.kind == kind for problem in self.problems)

    @property
    def has_error(self) -> bool:
        """True if one of the problems is an error."""
        return any(problem.kind in ERRORS for problem in self.problems)


class _Level:
    """Peak, silence and clipping of audio that comes in blocks."""

    def __init__(self, sample_rate: int, silence_db: float, full_scale: float) -> None:
        self.window = max(1, round(_WINDOW * sample_rate))
        self.power = 10 ** (silence_db / 10)
        self.full_scale = full_scale
        self.peak = 0.0
        self.silent = 0  # windows
        self.windows = 0
        self.power_in_mono = 0.0  # sum of squares of the mean of two channels
        self.power_in_stereo = 0.0  # sum of the mean squares of both
        self.clipped = 0  # samples
        self.samples = 0
        self._rest: np.ndarray | None = None  # samples after the last whole window
        self._before: np.ndarray | None = None  # mask of the last 3 samples at full scale

    def add(self, block: np.ndarray) -> None:
        """Add the next samples, float32 [T, C]."""
        self.samples += block.size
        loud = np.abs(block)
        self.peak = max(self.peak, float(loud.max()))
        self._count_clipped(loud >= self.full_scale)
        if block.shape[1] == 2:
            pair = block.clip(-LOUDEST, LOUDEST)  # damaged samples may overflow
            self.power_in_mono += float(np.square(pair.mean(1), dtype=np.float64).sum())
            self.power_in_stereo += float(np.square(pair, dtype=np.float64).mean(1).sum())
        wav = block if self._rest is None else np.concatenate([self._rest, block])
        whole = len(wav) // self.window * self.window
        self._count_silent(wav[:whole].reshape(-1, self.window, wav.shape[1]))
        self._rest = wav[whole:].copy()

    def finish(self) -> None:
        """Count the last, shorter window if it is the only one."""
        if self.windows == 0 and self._rest is not None and len(self._rest):
            self._count_silent(self._rest[None])

    def _count_silent(self, windows: np.ndarray) -> None:
        if len(windows):
            # the variance, not the power: a constant offset is silent too
            self.silent += int((windows.var(1, dtype=np.float64).max(-1) < self.power).sum())
        self.windows += len(windows)

    def _count_clipped(self, full: np.ndarray) -> None:
        """Count samples in runs of at least 3: the third counts as three, later ones as one."""
        before = (
            self._before if self._before is not None else np.zeros((3, full.shape[1]), dtype=bool)
        )
        if full.any() or before.any():
            mask = np.concatenate([before, full])
            third = mask[3:] & mask[2:-1] & mask[1:-2]
            self.clipped += int(third.sum() + 2 * (third & ~mask[:-3]).sum())
        self._before = np.concatenate([before, full[-3:]])[-3:]


def examine(meta: AudioMeta | str, limits: Limits) -> Examined:
    """Find every problem of a file, except duplicates, which need the other files.

    Args:
        meta: its manifest entry, or its path.
        limits: thresholds of problems.
    """
    path = meta if isinstance(meta, str) else meta.path
    found = Examined(path)
    file = file_of(path)
    if not os.path.exists(file):
        found.add('missing', 'no such file')
    elif os.path.isfile(file) and os.path.getsize(file) == 0:
        found.add('empty', 'the file has 0 bytes')
    else:
        try:
            with open_audio(path) as reader:
                _decode(reader, found, limits)
        except ValueError as error:
            found.add('unreadable', str(error).removeprefix(f'{path}: '))
    if isinstance(meta, AudioMeta) and found.sample_rate is not None:
        _compare(meta, found)
    return found


def _decode(file: Reader, found: Examined, limits: Limits) -> None:
    """Measure an open file, and add its problems."""
    found.sample_rate = file.sample_rate
    found.channels = file.channels
    suffix = Path(found.path).suffix.lower()
    if suffix in _FORMATS and file.format not in _FORMATS[suffix]:
        found.add('suffix', f'the content is {file.format}, the suffix {suffix}')
    contradiction = header_problem(file)
    if contradiction:
        found.add('header', contradiction)
    if file.frames <= 0:
        if not contradiction:
            found.add('empty', 'the header says 0 samples')
        return
    # the largest 8-bit sample is 127 / 128
    full_scale = 0.99 if file.coding in ('PCM_U8', 'PCM_S8') else 0.999
    level = _Level(file.sample_rate, limits.silence_db, full_scale)
    spectrum = LongTermSpectrum(file.sample_rate)
    digest = hashlib.blake2b(f'{file.sample_rate} {file.channels}'.encode(), digest_size=16)
    decoded = 0
    bad = 0
    reason: list[str] = []
    for block in _blocks(file, reason):
        decoded += len(block)
        if not np.isfinite(block).all():
            bad += int((~np.isfinite(block)).sum())
            block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
        digest.update((block + 0.0).tobytes())  # + 0.0 turns -0.0 into 0.0
        level.add(block)
        # clipped, so that the squares of huge samples do not overflow
        spectrum.add(block if level.peak <= LOUDEST else block.clip(-LOUDEST, LOUDEST))
    level.finish()
    found.duration = decoded / file.sample_rate
    promised = promised_frames(file, decoded)
    if promised is None:
        found.add('truncated', f'the stream breaks off after {found.duration:.2f} s', math.inf)
    elif decoded < promised:
        why = f' ({reason[0]})' if reason and reason[0] else ''
        length = promised / file.sample_rate
        found.add(
            'truncated',
            f'has {found.duration:.2f} of the {length:.2f} s in its header{why}',
            1 - decoded / promised,
        )
    if bad:
        found.add('nonfinite', f'{bad} samples are NaN or Inf', bad)
    if not decoded:
        return
    found.amplitude = level.peak
    found.digest = digest.hexdigest()
    found.cutoff = spectrum.cutoff()
    if level.peak > LOUDEST:
        found.add('scale', f'the largest sample is {level.peak:.4g}', level.peak)
    found.silence = level.silent / level.windows
    found.clipping = level.clipped / level.samples
    if level.power_in_stereo > 0:
        found.mono = level.power_in_mono / level.power_in_stereo
    _check_limits(found, limits)


def _blocks(file: Reader, reason: list[str]) -> Iterator[np.ndarray]:
    """Yield samples, float32 [T, C], up to the first error, which is appended to `reason`."""
    at_once = max(1, 2 * _BLOCK // file.channels // _PIECE)
    position = 0
    ended = False
    while not ended:
        pieces: list[np.ndarray] = []
        while len(pieces) < at_once and not ended:
            try:
                pieces.append(file.read(position, _PIECE))
                position += len(pieces[-1])
                ended = len(pieces[-1]) == 0
            except ValueError as error:
                reason.append(str(error).rpartition(': ')[2])
                ended = True
        if sum(map(len, pieces)):
            yield np.concatenate(pieces)


def _check_limits(found: Examined, limits: Limits) -> None:
    """Check silence, clipping and bandwidth against the limits."""
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
    if found.mono is not None and found.mono < limits.opposed:
        found.add(
            'opposed',
            f'the mean of left and right has {found.mono:.1%} of their power: a mono recipe hears '
            'almost nothing (datasource.downmix=left)',
            1 - found.mono,
        )
    if found.channels is not None and found.channels > MOST_CHANNELS:
        found.add('layout', f'{found.channels} channels; a stereo recipe skips it', found.channels)
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
    """Add the differences between the manifest and the file."""
    if not meta.sample_rate:
        return  # the manifest has the path alone
    differs: list[Any] = []
    if meta.sample_rate != found.sample_rate:
        differs.append(f'{meta.sample_rate} Hz, the file has {found.sample_rate} Hz')
    if meta.channels not in (None, found.channels):
        differs.append(f'{meta.channels} channels, the file has {found.channels}')
    short = meta.duration - found.duration
    if short < -_TOLERANCE:
        differs.append(f'{meta.duration:.2f} s, the file has {found.duration:.2f} s')
    kinds = {problem.kind for problem in found.problems}
    if short > _TOLERANCE and found.duration > 0 and 'truncated' not in kinds:
        found.add(
            'truncated',
            f'has {found.duration:.2f} of the {meta.duration:.2f} s in the manifest',
            short / meta.duration,
        )
    if differs:
        found.add('mismatch', f'the manifest says {"; ".join(differs)}', len(differs))
