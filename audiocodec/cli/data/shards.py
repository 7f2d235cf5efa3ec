"""`audiocodec shards SOURCE OUT --sample_rate 24000`: pack audio into shards.

Then train from them: `dora run ... dset=audio/default datasource.train=OUT`.
"""

import argparse
import sys

from audiocodec.data import SPLITS, load_source, make_shards, split_folder
from audiocodec.utils.files import check_out

_MAX_NAMED = 20  # unreadable files listed at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('source', help='manifest (.jsonl, .jsonl.gz), folder, or audio file')
    parser.add_argument('out', help='folder to create')
    parser.add_argument(
        '--sample_rate', type=int, required=True, help='sample rate of the training run (Hz)'
    )
    parser.add_argument(
        '--channels', type=int, default=1, help='channels of the training run (default: 1)'
    )
    parser.add_argument(
        '--split',
        choices=SPLITS,
        help='use only this split of the folder, split as datasource.folder would',
    )
    parser.add_argument(
        '--workers', type=int, default=None, help='processes (default: one per core)'
    )


def run(args: argparse.Namespace) -> int:
    """Create the shards, and list unreadable files."""
    check_out(args.out, folder=True)
    metas = split_folder(args.source, args.split) if args.split else load_source(args.source)
    report = make_shards(
        metas, args.out, args.sample_rate, args.channels, args.workers, args.source
    )
    for problem in report.problems[:_MAX_NAMED]:
        print(f'warning: {problem}', file=sys.stderr)
    print(
        f'{args.out}: {report.files} files, {report.hours:.2f} h, {report.bytes / 1e9:.2f} GB, '
        f'{len(report.problems)} unreadable, '
        f'{report.limited:.2e} of the values limited to full scale'
    )
    return 0
