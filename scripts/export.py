#!/usr/bin/env python
"""Export a model, and prove it on audio: `python scripts/export.py CHECKPOINT_OR_SIG OUT --format hf`."""

import argparse
import logging
import sys
from collections.abc import Sequence

from audiocodec.models import export
from audiocodec.utils.errors import RunError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when nothing was exported, or not the same model."""
    parser = argparse.ArgumentParser(description='Write a model in another format, read it again, and compare the two '
                                                 'on audio. docs/export.md tells the formats apart.')
    parser.add_argument('source', metavar='CHECKPOINT_OR_SIG',
                        help='signature of an experiment (SIG or //sig/SIG), its folder, a checkpoint, an exported '
                             'file, or //pretrained/NAME')
    parser.add_argument('out', metavar='OUT', help='file to write (compact, bundle, audiocraft), or folder (hf, onnx, '
                                                   'torch)')
    parser.add_argument('--format', choices=list(export.FORMATS), default='compact')
    parser.add_argument('--audio', nargs='+', metavar='PATH',
                        help='files, folders or manifests of audio to compare on; by default the example recordings')
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.WARNING)
    try:
        report = export.export(args.source, args.out, args.format, args.audio)
    except (ValueError, OSError, RunError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == '__main__':
    sys.exit(main())
