"""`audiocodec encode IN OUT.acs --model M --kbps 6`: encode an audio file as a stream."""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import torch

from audiocodec import bitstream
from audiocodec.cli.codec.export import SOURCE
from audiocodec.data import audio
from audiocodec.dsp.resample import resampler
from audiocodec.models import CompressionModel
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
        help='write packets while reading; needs a causal model. Memory does not grow with length',
    )


def run(args: argparse.Namespace) -> int:
    """Encode, and print the size."""
    source = open_source(args.model)
    model = source.model
    model.set_num_codebooks(model.total_codebooks)
    if args.kbps is not None:
        model.set_bandwidth(args.kbps)
    tables = find_tables(args.tables, source.path)
    header = bitstream.describe(model, tables, args.packet, args.model)
    fast = model.for_cpu()
    out = Path(args.out)
    if args.stream:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open('wb') as live:
            writer = bitstream.BitstreamWriter(live, header, tables)
            bitstream.encode_live(fast, _parts(args.input, fast), writer)
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


def find_tables(argument: str | None, model: Path | None) -> bitstream.Tables | None:
    """Return the tables to use.

    Args:
        argument: a path, 'none', or None for those next to the model, if any.
        model: the file or folder of the model, if any.

    Raises:
        ValueError: the file cannot be read.
    """
    if argument == 'none':
        return None
    if argument is not None:
        return bitstream.Tables.load(argument)
    path = None if model is None else tables_beside(model)
    return None if path is None or not path.is_file() else bitstream.Tables.load(path)


def tables_beside(model: Path) -> Path:
    """Return where the tables of a model belong: next to its file, or in its folder."""
    if model.is_dir():
        return model / 'tables.safetensors'
    return model.with_name(f'{model.stem}.tables.safetensors')


def _parts(path: str, model: CompressionModel) -> Iterator[torch.Tensor]:
    """Read a file in parts [C, T] at the model's sample rate."""
    info = audio.audio_info(path, check_end=True)
    total = resampler(info.sample_rate, model.sample_rate).length(info.frames)
    size = round(_PART * model.sample_rate)
    with Progress(range(0, total, size), desc='Encode', unit='part') as starts:
        for start in starts:
            wav = audio.read_segment(path, start, size, model.sample_rate, model.channels)
            audio.check_samples(wav, path)
            yield wav
