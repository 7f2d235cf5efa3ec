"""`audiocodec tokens SOURCE OUT --model M`: encode audio into tokens for language models."""

import argparse
import itertools
import json
import re
from pathlib import Path

from audiocodec.cli.codec.export import SOURCE
from audiocodec.models.export.source import open_source
from audiocodec.tokens import make_tokens
from audiocodec.tokens.folder import SKIPPED
from audiocodec.tokens.formats import FORMATS, get_format
from audiocodec.utils.files import check_out

_NAMED = 20  # files that are listed at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        'The same command goes on after an interruption. Exit code: 1 if files could not be read. '
        'docs/tokens.md describes the output.'
    )
    parser.add_argument('source', metavar='SOURCE', help='manifest, folder or file of audio')
    parser.add_argument('out', metavar='OUT', help='folder to create')
    parser.add_argument('--model', required=True, metavar='M', help=SOURCE)
    parser.add_argument(
        '--kbps',
        type=float,
        help='bit rate, as many codebooks as it allows (default: all that are in use)',
    )
    parser.add_argument('--format', choices=list(FORMATS), default='safetensors')
    parser.add_argument(
        '--device', default='cpu', help='cpu, cuda, or several GPUs: cuda:0,1 (%(default)s)'
    )
    parser.add_argument('--workers', type=int, help='processes (default: one per core, or per GPU)')
    parser.add_argument(
        '--shard_minutes',
        type=float,
        help='audio in a shard, the unit of work (default: a 64th of the data, from 1 to 30)',
    )


def run(args: argparse.Namespace) -> int:
    """Encode, and list the files that could not be read."""
    get_format(args.format)  # before the model, which takes longer
    check_out(args.out, folder=True)
    devices = parse_devices(args.device)
    source = open_source(args.model)
    if args.kbps is not None:
        source.model.set_bandwidth(args.kbps)
    report = make_tokens(
        source.model,
        args.source,
        args.out,
        source.name,
        args.format,
        args.workers,
        devices,
        args.shard_minutes,
    )
    if report.skipped:
        print(f'{report.skipped} files could not be read, see {Path(args.out) / SKIPPED}:')
        with open(Path(args.out) / SKIPPED) as lines:
            for line in itertools.islice(lines, _NAMED):
                print(f'  {json.loads(line)["reason"]}')
        if report.skipped > _NAMED:
            print(f'  and {report.skipped - _NAMED} more')
    print(
        f'{args.out}: {report.files} files, {report.hours:.2f} h, {report.frames} frames of '
        f'{source.model.num_codebooks} codes at {source.model.bandwidth:g} kbps, '
        f'{report.bytes / 1e6:.2f} MB'
    )
    return int(report.skipped > 0)


def parse_devices(text: str) -> tuple[str, ...]:
    """Return the devices of a text such as `cpu`, `cuda` or `cuda:0,1`.

    Raises:
        ValueError: not such a text.
    """
    found = re.fullmatch(r'cuda:(\d+(?:,\d+)*)', text)
    if found is not None:
        return tuple(f'cuda:{number}' for number in found[1].split(','))
    if text in ('cpu', 'cuda', 'mps'):
        return (text,)
    raise ValueError(f'device {text!r}: expected cpu, cuda, mps, cuda:1, or several as in cuda:0,1')
