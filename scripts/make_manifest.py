#!/usr/bin/env python
"""Write a manifest of the audio files below a folder: `python scripts/make_manifest.py FOLDER OUT.jsonl.gz`."""

import argparse
import logging
import sys
from collections.abc import Sequence

from audiocodec.data import index_folder, save_manifest, summarize


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when there is nothing to write."""
    parser = argparse.ArgumentParser(description='Write a manifest (JSON lines) of the audio files below a folder.')
    parser.add_argument('folder', help='folder with audio files, searched with everything below it')
    parser.add_argument('out', help='manifest to write; gzipped when it ends in .gz')
    parser.add_argument('--workers', type=int, default=None, help='processes that read files')
    parser.add_argument('--min_duration', type=float, default=0.0, help='leave out shorter files (seconds)')
    parser.add_argument('--amplitude', action='store_true', help='also measure peaks (slow: decodes every file)')
    parser.add_argument('--absolute', action='store_true', help='write absolute paths even beside the manifest')
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.INFO)
    try:
        metas = index_folder(args.folder, args.min_duration, args.workers, cache=False, amplitude=args.amplitude)
        save_manifest(metas, args.out, relative=not args.absolute)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: {summarize(metas)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
