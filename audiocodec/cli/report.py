"""`audiocodec report SOURCE... --out DIR`: write a page to look at and listen to."""

import argparse
from pathlib import Path

from audiocodec.report import write_report


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
    parser.add_argument('--title', help='title of the page')
    parser.add_argument(
        '--items', type=int, help='items to listen to (default: all that were kept)'
    )


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    content = write_report(args.sources, Path(args.out), args.title, args.items)
    print(
        f'{Path(args.out) / "index.html"}: {len(content.rows)} rows, '
        f'{len(content.items)} items to listen to, {len(content.runs)} runs'
    )
    return 0
