"""Segments per second loaded from audio files or shards, or from each of several formats."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from audiocodec.data import AudioDataset, is_shards, load_shards, load_source, make_loader
from benchmarks.common import time_batches

HELP = 'segments per second of a folder, manifest or shards'
# format -> its codec of FFmpeg; None: written by soundfile
FORMATS = {
    'wav': None,
    'flac': None,
    'ogg': None,
    'mp3': None,
    'm4a': 'aac',
    'webm': 'libopus',
    'mka': 'flac',
}
DEFAULTS = {'steps': 30, 'warmup': 4, 'threads': 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the source and the segments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--source', help='folder with audio, manifest, or folder of shards')
    source.add_argument(
        '--formats',
        nargs='+',
        choices=FORMATS,
        metavar='FORMAT',
        help=f'a minute of noise in each of these formats: {", ".join(FORMATS)}',
    )
    parser.add_argument('--sample_rate', type=int, default=24000, help='of the segments (Hz)')
    parser.add_argument('--channels', type=int, default=1, help='of the segments')
    parser.add_argument('--seconds', type=float, default=1.0, help='of a segment')
    parser.add_argument('--batch', type=int, default=16, help='segments; steps are batches')
    parser.add_argument('--workers', type=int, default=1, help='loading processes')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the batches of one epoch as they arrive; loading uses the CPU whatever the device.

    Raises:
        ValueError: the source has no audio.
    """
    torch.set_num_threads(args.threads)
    if args.source:
        return _time(args, args.source)
    results = {}
    for name in args.formats:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder) / f'noise.{name}')
            results[name] = _time(args, folder)
    rates = {name: result['per_second']['segments'] for name, result in results.items()}
    return {**results[args.formats[0]], 'per_second': rates}


def _time(args: argparse.Namespace, source: str) -> dict[str, Any]:
    metas = load_shards(source) if is_shards(source) else load_source(source)
    dataset = AudioDataset(
        metas,
        args.sample_rate,
        args.channels,
        args.seconds,
        args.batch * (args.warmup + args.steps),
    )
    loader = make_loader(dataset, args.batch, args.workers)
    return {
        'files': len(metas),
        **time_batches(loader, args.batch, args.workers, args.steps, args.warmup),
    }


def _write(path: Path) -> None:
    """Write a minute of noise at 48 kHz, in stereo."""
    rate = 48000
    noise = 0.1 * np.random.default_rng(0).standard_normal((60 * rate, 2)).astype(np.float32)
    codec = FORMATS[path.suffix[1:]]
    if codec is None:
        with soundfile.SoundFile(path, 'w', rate, 2) as file:
            for begin in range(0, len(noise), 2**16):  # libvorbis copies its input to the stack
                file.write(noise[begin : begin + 2**16])
        return
    import av

    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate, layout='stereo')
        convert = av.AudioResampler(stream.codec_context.format, 'stereo', rate)
        for begin in range(0, len(noise), 4096):
            part = np.ascontiguousarray(noise[begin : begin + 4096].T)
            frame = av.AudioFrame.from_ndarray(part, 'fltp', 'stereo')
            frame.sample_rate, frame.pts = rate, begin
            for piece in convert.resample(frame):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
