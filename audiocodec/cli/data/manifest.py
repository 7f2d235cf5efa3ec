"""`audiocodec manifest SOURCE OUT.jsonl.gz`: write a manifest of a folder, or of another list."""

import argparse
import os

from audiocodec.data import index_folder, load_source, save_manifest, summarize
from audiocodec.utils.files import check_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'source', help='folder with audio files, searched recursively, or a list of files'
    )
    parser.add_argument('out', help='manifest to write; gzipped when it ends in .gz')
    parser.add_argument('--workers', type=int, default=None, help='processes that read files')
    parser.add_argument(
        '--min_duration', type=float, default=0.0, help='leave out shorter files (seconds)'
    )
    parser.add_argument(
        '--amplitude', action='store_true', help='also measure peaks (slow: decodes every file)'
    )
    parser.add_argument(
        '--absolute', action='store_true', help='write absolute paths even next to the manifest'
    )


def run(args: argparse.Namespace) -> int:
    """Index the folder, or read the list, and write the manifest."""
    check_out(args.out)
    if os.path.isfile(args.source):
        if args.amplitude:
            raise ValueError('--amplitude measures folders; audiocodec doctor measures lists too')
        metas = [meta for meta in load_source(args.source) if meta.duration >= args.min_duration]
    else:
        metas = index_folder(
            args.source, args.min_duration, args.workers, cache=False, amplitude=args.amplitude
        )
    save_manifest(metas, args.out, relative=not args.absolute)
    print(f'{args.out}: {summarize(metas)}')
    return 0
