"""`audiocodec manifest FOLDER OUT.jsonl.gz`: write a manifest of a folder."""

import argparse

from audiocodec.data import index_folder, save_manifest, summarize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('folder', help='folder with audio files, searched recursively')
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
    """Index the folder and write the manifest."""
    metas = index_folder(
        args.folder, args.min_duration, args.workers, cache=False, amplitude=args.amplitude
    )
    save_manifest(metas, args.out, relative=not args.absolute)
    print(f'{args.out}: {summarize(metas)}')
    return 0
