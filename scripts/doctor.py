#!/usr/bin/env python
"""Check the audio of a manifest or folder: `python scripts/doctor.py SOURCE [--clean OUT.jsonl.gz] [--json OUT.json]`.

The exit code is 0 when nothing is wrong at the level of errors, 1 otherwise; docs/data.md explains every problem.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from audiocodec.data import doctor, save_manifest, summarize
from audiocodec.data.manifest import printable
from audiocodec.utils.files import write_bytes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Check the audio of a manifest or folder. Exit code 0: no errors (warnings aside), 1: errors.')
    limits = doctor.Limits()
    parser.add_argument('source', help='manifest (.jsonl, .jsonl.gz), folder, or audio file')
    parser.add_argument('--json', metavar='OUT', help='write all that was found, file by file (gzipped: .gz)')
    parser.add_argument('--clean', metavar='OUT', help='write a manifest of the files without errors')
    parser.add_argument('--exclude', metavar='KIND', nargs='+', default=[], choices=list(doctor.WARNINGS),
                        help=f'warnings whose files --clean leaves out too: {", ".join(doctor.WARNINGS)}')
    parser.add_argument('--mend', action='store_true',
                        help='--clean keeps files of which only the manifest entry is wrong, with the right values')
    parser.add_argument('--absolute', action='store_true', help='write absolute paths even beside the manifest')
    parser.add_argument('--workers', type=int, default=None, help='processes that decode')
    parser.add_argument('--examples', type=int, default=5, help='files to name for each problem')
    parser.add_argument('--sample_rate', type=int, default=limits.sample_rate,
                        help='of the recipe (Hz): the bandwidth is judged by it; default: each file by its own rate')
    parser.add_argument('--bandwidth', type=float, default=limits.bandwidth,
                        help='share of half the sample rate that the energy has to reach (%(default)s)')
    parser.add_argument('--silence_db', type=float, default=limits.silence_db,
                        help='level below which it is silent, dBFS over 50 ms (%(default)s)')
    parser.add_argument('--silent_share', type=float, default=limits.silent_share,
                        help='share of silence that is too much (%(default)s)')
    parser.add_argument('--clipping', type=float, default=limits.clipping,
                        help='share of samples at full scale that is too much (%(default)s)')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when there are errors in the data, or it cannot be read."""
    args = _parser().parse_args(argv)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.INFO)
    try:
        limits = doctor.Limits(args.silence_db, args.silent_share, args.clipping, args.bandwidth, args.sample_rate)
        report = doctor.check(args.source, limits, args.workers)
        print(report.show(args.examples))
        if args.json:
            write_bytes(Path(args.json), (json.dumps(report.to_dict(), indent=1, allow_nan=False) + '\n').encode())
            print(f'\nreport: {args.json}')
        if args.clean:
            kept = report.cleaned(args.exclude, args.mend)
            save_manifest(kept, args.clean, relative=not args.absolute)
            print(f'\n{args.clean}: {summarize(kept)}; {len(report.files) - len(kept)} files left out')
    except (ValueError, OSError) as error:
        print(f'error: {printable(str(error))}', file=sys.stderr)
        return 1
    return int(report.has_errors)


if __name__ == '__main__':
    sys.exit(main())
