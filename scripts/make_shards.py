#!/usr/bin/env python
"""Decode, resample and pack audio into shards: `python scripts/make_shards.py SOURCE OUT --sample_rate 24000`.

Then train from them: `dora run ... dset=audio/default datasource.train=OUT`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from audiocodec.data import SPLITS, load_source, make_shards, split_folder

_NAMED = 20  # unreadable files named


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when nothing was written."""
    parser = argparse.ArgumentParser(description='Pack audio into shards, which load without decoding.')
    parser.add_argument('source', help='a manifest (.jsonl, .jsonl.gz), a folder with audio, or an audio file')
    parser.add_argument('out', help='folder to make')
    parser.add_argument('--sample_rate', type=int, required=True, help='of the shards, that of the run (Hz)')
    parser.add_argument('--channels', type=int, default=1, help='of the shards, that of the run (default: 1)')
    parser.add_argument('--split', choices=SPLITS, help='only this split of a folder, as datasource.folder splits it')
    parser.add_argument('--workers', type=int, default=None, help='processes (default: one for each processor)')
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.INFO)
    try:
        metas = split_folder(args.source, args.split) if args.split else load_source(args.source)
        report = make_shards(metas, args.out, args.sample_rate, args.channels, args.workers, args.source)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for problem in report.problems[:_NAMED]:
        print(f'warning: {problem}', file=sys.stderr)
    print(f'{args.out}: {report.files} files, {report.hours:.2f} h, {report.bytes / 1e9:.2f} GB, '
          f'{len(report.problems)} unreadable, {report.limited:.2e} of the values limited to full scale')
    return 0


if __name__ == '__main__':
    sys.exit(main())
