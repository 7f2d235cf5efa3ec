"""`audiocodec doctor SOURCE`: check the audio of a manifest or folder."""

import argparse
import json
from pathlib import Path

from audiocodec.data import doctor, save_manifest, summarize
from audiocodec.utils.files import check_out, write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    limits = doctor.Limits()
    parser.epilog = 'Exit code: 0 without errors (there may be warnings), 1 with errors.'
    parser.add_argument('source', help='manifest (.jsonl, .jsonl.gz), folder, or audio file')
    parser.add_argument(
        '--json', metavar='OUT', help='write the findings of each file (gzipped if OUT ends in .gz)'
    )
    parser.add_argument(
        '--clean', metavar='OUT', help='write a manifest of the files without errors'
    )
    parser.add_argument(
        '--exclude',
        metavar='KIND',
        nargs='+',
        default=[],
        choices=list(doctor.WARNINGS),
        help=f'warnings for which --clean leaves files out too: {", ".join(doctor.WARNINGS)}',
    )
    parser.add_argument(
        '--fix-manifest',
        '--mend',
        action='store_true',
        help='--clean keeps files with wrong values in the manifest, and corrects the values',
    )
    parser.add_argument(
        '--absolute', action='store_true', help='write absolute paths even next to the manifest'
    )
    parser.add_argument('--workers', type=int, default=None, help='processes that decode')
    parser.add_argument('--examples', type=int, default=5, help='files to name for each problem')
    parser.add_argument(
        '--sample_rate',
        type=int,
        default=limits.sample_rate,
        help='sample rate of the recipe (Hz), the reference of --bandwidth (default: that of each '
        'file)',
    )
    for name, value, text in (
        ('bandwidth', limits.bandwidth, 'fraction of half the sample rate with energy'),
        ('silence_db', limits.silence_db, 'level below which audio is silent, dBFS over 50 ms'),
        ('silent_share', limits.silent_share, 'fraction of silence that is too much'),
        ('clipping', limits.clipping, 'fraction of samples at full scale that is too much'),
    ):
        parser.add_argument(f'--{name}', type=float, default=value, help=f'{text} (%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Check the source, print the findings, and write report and manifest if requested."""
    limits = doctor.Limits(
        silence_db=args.silence_db,
        silent_share=args.silent_share,
        clipping=args.clipping,
        bandwidth=args.bandwidth,
        sample_rate=args.sample_rate,
    )
    for out in (args.json, args.clean):
        if out:
            check_out(out)
    report = doctor.check(args.source, limits, args.workers)
    print(report.show(args.examples))
    if args.json:
        content = json.dumps(report.to_dict(), indent=1, allow_nan=False) + '\n'
        write_bytes(Path(args.json), content.encode())
        print(f'\nreport: {args.json}')
    if args.clean:
        kept = report.cleaned(args.exclude, fix=args.fix_manifest)
        save_manifest(kept, args.clean, relative=not args.absolute)
        excluded = len(report.files) - len(kept)
        print(f'\n{args.clean}: {summarize(kept)}; {excluded} files left out')
    return int(report.has_errors)
