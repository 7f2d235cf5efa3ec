"""`audiocodec report SOURCE... --out DIR`: write a page to look at and listen to."""

import argparse

from audiocodec.cli.bands import band_of
from audiocodec.report import write_report
from audiocodec.report.collect import find
from audiocodec.report.pictures import write_pictures
from audiocodec.utils.files import check_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = 'Open DIR/index.html in a browser; it needs no server and no network.'
    parser.add_argument(
        'sources',
        metavar='SOURCE',
        nargs='+',
        help='folder of `audiocodec evaluate`, or signature or folder of an experiment; '
        'NAME=SOURCE to choose the name of an experiment',
    )
    parser.add_argument('--out', default='report', metavar='DIR', help='folder (%(default)s)')
    parser.add_argument(
        '--pictures',
        action='store_true',
        help='also write curve.png and spectrograms.png, by matplotlib (extra notebook)',
    )
    parser.add_argument('--title', help='title of the page')
    parser.add_argument(
        '--items', type=int, help='items to listen to (default: all that were kept)'
    )


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    out = check_out(args.out, folder=True)
    found = [band_of(find(source)[1]) for source in args.sources]
    bands = {band.name: band for band in found if band is not None}
    content = write_report(args.sources, out, args.title, args.items, list(bands.values()))
    if args.pictures:
        write_pictures(content, out, list(bands.values()))
    print(
        f'{out / "index.html"}: {len(content.rows)} rows, '
        f'{len(content.items)} items to listen to, {len(content.runs)} runs'
    )
    return 0
