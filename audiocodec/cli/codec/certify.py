"""`audiocodec certify MODEL`: compare the ways of computing a model on audio."""

import argparse
import logging
import tempfile
from pathlib import Path

from audiocodec.cli.codec.export import SOURCE, add_audio
from audiocodec.models import certificate, export
from audiocodec.models.export.source import open_source
from audiocodec.utils.files import check_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = 'docs/certificate.md explains the lines.'
    parser.add_argument('source', metavar='MODEL', help=SOURCE)
    add_audio(parser)
    parser.add_argument(
        '--kbps', type=float, help='bit rate of the codes (default: that of all codebooks)'
    )
    parser.add_argument(
        '--exports',
        nargs='+',
        choices=list(export.FORMATS),
        default=[],
        metavar='FORMAT',
        help=f'also export in these formats, and compare: {", ".join(export.FORMATS)}',
    )
    parser.add_argument('--out', metavar='FILE', help='also write the certificate as JSON')


def run(args: argparse.Namespace) -> int:
    """Print the certificate; the exit code is 1 if something differs."""
    logging.getLogger().setLevel(logging.WARNING)  # exporters of other packages report every step
    out = None if args.out is None else check_out(args.out)
    source = open_source(args.source)
    model = source.model
    model.set_num_codebooks(model.total_codebooks)
    if args.kbps is not None:
        model.set_bandwidth(args.kbps)
    clips = certificate.load_clips(model, args.audio)
    found = certificate.certify(model, source.name, clips)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.exports:
            path = Path(folder) / f'{name}{export.SUFFIXES.get(name, "")}'
            try:
                found.comparisons[f'export {name}'] = export.export(
                    args.source, path, name, args.audio
                )
            except export.ParityError as error:
                found.comparisons[f'export {name}'] = error.report
            except ValueError as error:
                found.impossible[f'export {name}'] = str(error)
    print(found)
    if out is not None:
        found.save(out)
    return 0 if found.passed else 1
