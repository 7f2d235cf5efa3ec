"""Audio files of many formats, encoded by FFmpeg's libraries (PyAV)."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

_FORMATS = ('fltp', 'flt', 's16p', 's16', 's32p', 's32')  # of samples, the preferred ones first
ROOT = Path(__file__).resolve().parents[1]
WILD = ROOT / 'fixtures' / 'wild'


def sweep(seconds, sample_rate, channels=1):
    """Return sound that changes all the time, with noise, [T, C]: a shifted read is noticed."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    rng = np.random.default_rng(0)
    wav = [0.3 * np.sin(2 * np.pi * (200 + 90 * one + 40 * time) * time) for one in range(channels)]
    return (np.stack(wav, 1) + 0.03 * rng.standard_normal((len(time), channels))).astype(np.float32)


def encode(path, wav, sample_rate, codec, container=None, coding=None, **options):
    """Write a file with a codec of FFmpeg, by its command if PyAV is built without it.

    The test is skipped if there is no such command.

    Args:
        path: the file.
        wav: float32 [T, C].
        sample_rate: Hz.
        codec: name of the encoder.
        container: name of the format; by default that of the suffix.
        coding: options of the codec.
        **options: options of the container.
    """
    import av

    options = {name: str(value) for name, value in options.items()}
    if codec not in av.codecs_available:
        return _by_command(path, wav, sample_rate, codec, container, {**(coding or {}), **options})
    with av.open(str(path), 'w', format=container, options=options) as file:
        layout = {1: 'mono', 2: 'stereo', 6: '5.1'}[wav.shape[1]]
        stream = file.add_stream(codec, rate=sample_rate, layout=layout, options=coding or {})
        formats = {one.name for one in stream.codec_context.codec.audio_formats}
        name = next(one for one in _FORMATS if one in formats)
        stream.codec_context.format = name
        resampler = av.AudioResampler(format=name, layout=layout, rate=sample_rate)
        step = 4096
        for begin in range(0, len(wav), step):
            part = np.ascontiguousarray(wav[begin : begin + step].T)
            frame = av.AudioFrame.from_ndarray(part, format='fltp', layout=layout)
            frame.sample_rate = sample_rate
            frame.pts = begin
            for piece in resampler.resample(frame):
                file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path


def _by_command(path, wav, sample_rate, codec, container, options):
    """Write a file with the command of FFmpeg, which Debian builds with more codecs."""
    command = shutil.which('ffmpeg')
    if command is None:
        pytest.skip(f"{codec} is not in PyAV's FFmpeg, and there is no ffmpeg command")
    source = ['-f', 'f32le', '-ar', str(sample_rate), '-ac', str(wav.shape[1]), '-i', '-']
    target = [word for name, value in options.items() for word in (f'-{name}', value)]
    target += ['-f', container] if container else []
    command = [command, '-v', 'error', '-y', *source, '-c:a', codec, *target, str(path)]
    subprocess.run(command, input=wav.tobytes(), check=True)
    return path


def assert_segments(path, whole, read, tolerance=6e-8, tries=20):
    """Assert that segments of a file, read by seeking, are those of the whole file.

    Args:
        path: the file.
        whole: [C, T], all of it.
        read: function of (path, start, frames) that returns a segment.
        tolerance: largest difference, relative to full scale.
        tries: number of random segments, besides those at the ends.
    """
    length = whole.shape[-1]
    rng = np.random.default_rng(1)
    segments = [(0, length), (0, 1), (length - 1, 1), (length // 2, length)]
    segments += [(int(rng.integers(length)), int(rng.integers(1, 30000))) for _ in range(tries)]
    for start, frames in segments:
        part = read(path, start, frames)
        expected = whole[:, start : start + frames]
        assert part.shape == expected.shape, (start, frames)
        assert (part - expected).abs().max() <= tolerance, (start, frames)
