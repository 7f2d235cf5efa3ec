"""`audiocodec encode IN OUT.acs --model M --kbps 6`: encode an audio file as a stream."""

import argparse
import io
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from audiocodec import bitstream
from audiocodec.cli.codec.export import SOURCE
from audiocodec.data import audio
from audiocodec.models import CompressionModel, sources
from audiocodec.models.export.source import open_source
from audiocodec.utils import files
from audiocodec.utils.progress import Progress

TABLES = (
    'tables for entropy coding, written by `audiocodec tables`, or "none" for codes of a fixed '
    'width (default: those next to the model, if any)'
)
_PART = 2.0  # seconds that --stream reads at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = 'docs/bitstream.md describes the format and the Python functions.'
    parser.add_argument('input', metavar='IN', help='audio file; resampled if needed')
    parser.add_argument('out', metavar='OUT', help='stream to write, such as out.acs')
    parser.add_argument('--model', required=True, help=SOURCE)
    parser.add_argument(
        '--kbps', type=float, help='bit rate of codes of a fixed width (default: the highest)'
    )
    parser.add_argument('--tables', metavar='PATH', help=TABLES)
    parser.add_argument(
        '--packet',
        type=float,
        metavar='SECONDS',
        default=bitstream.PACKET_SECONDS,
        help='duration of a packet, lost if one of its bytes is (%(default)s)',
    )
    parser.add_argument(
        '--stream',
        action='store_true',
        help='write packets while reading (if the model can stream), in memory of constant size',
    )


def run(args: argparse.Namespace) -> int:
    """Encode, and print the size."""
    out = _checked_out(args.out, args.input, args.stream)
    model = open_source(args.model).model
    model.set_num_codebooks(model.total_codebooks)
    if args.kbps is not None:
        model.set_bandwidth(args.kbps)
    tables = find_tables(args.tables, args.model)
    header = bitstream.describe(model, tables, args.packet, args.model)
    fast = model.for_cpu()
    if args.stream:
        fast.streaming_encoder()  # all that can be refused is refused before OUT is overwritten
        parts = _parts(args.input, fast)
        first = next(parts)
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open('wb') as live:
            writer = bitstream.BitstreamWriter(live, header, tables)
            bitstream.encode_live(fast, itertools.chain([first], parts), writer)
    else:
        wav = audio.read_segment(args.input, 0, -1, model.sample_rate, model.channels)
        audio.check_samples(wav, args.input)
        buffer = io.BytesIO()
        writer = bitstream.BitstreamWriter(buffer, header, tables)
        bitstream.encode(fast, wav, writer)
        files.write_bytes(out, buffer.getvalue())
    seconds = writer.samples / model.sample_rate
    kbps = 8 * writer.bytes / seconds / 1000
    print(
        f'{out}: {seconds:.2f} s, {writer.bytes} bytes, {kbps:.3g} kbps '
        f'({kbps / model.bandwidth - 1:+.1%} of {model.bandwidth:.3g} kbps)'
    )
    return 0


def _checked_out(out: str, source: str, stream: bool) -> Path:
    """Return the file to write.

    Raises:
        ValueError: it cannot be written, or is the file that is read.
    """
    path = files.check_out(out, may_be_pipe=stream)
    if path.exists() and os.path.exists(source) and path.samefile(source):
        raise ValueError(f'{out} is the file to encode: write to another one')
    return path


def find_tables(argument: str | None, model: str) -> bitstream.Tables | None:
    """Return the tables to use.

    Args:
        argument: a path, 'none', or None for those next to the model, if any.
        model: what the user called the model.

    Raises:
        ValueError: the file cannot be read.
    """
    if argument == 'none':
        return None
    path = tables_beside(model) if argument is None else Path(argument)
    return bitstream.Tables.load(path) if argument or path.is_file() else None


def tables_beside(model: str) -> Path:
    """Return where the tables of a model belong: next to its file, or in its folder."""
    path = sources.find(model)
    name = 'tables.safetensors'
    return path / name if path.is_dir() else path.with_name(f'{path.stem}.{name}')


def _parts(path: str, model: CompressionModel) -> Iterator[torch.Tensor]:
    """Read a file in parts [C, T] at the model's sample rate."""
    info = audio.audio_info(path)
    size = round(_PART * model.sample_rate)
    parts = audio.read_parts(path, size, model.sample_rate, model.channels)
    total = math.ceil(info.frames / info.sample_rate / _PART)
    with Progress(parts, total, desc='Encode', unit='part') as progress:
        yield from progress
