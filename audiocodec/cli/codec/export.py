"""`audiocodec export CHECKPOINT_OR_SIG OUT --format hf`: export a model."""

import argparse
import logging

from audiocodec.models import export

SOURCE = (
    'signature of an experiment (SIG or //sig/SIG), its folder, a checkpoint, an exported file, '
    '//pretrained/NAME, or a known name such as audiocodec/small_24khz'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = 'docs/export.md describes the formats.'
    parser.add_argument('source', metavar='CHECKPOINT_OR_SIG', help=SOURCE)
    parser.add_argument(
        'out',
        metavar='OUT',
        help='file to write (compact, bundle, audiocraft), or folder (hf, onnx, torch)',
    )
    parser.add_argument('--format', choices=list(export.FORMATS), default='compact')
    parser.add_argument(
        '--stream',
        type=int,
        metavar='FRAMES',
        help='onnx and torch: also write programs for a signal in chunks of so many frames',
    )
    parser.add_argument(
        '--dtype',
        choices=list(export.DTYPES),
        help='compact: type of the weights in the file (default: float32)',
    )
    add_audio(parser)


def add_audio(parser: argparse.ArgumentParser) -> None:
    """Declare the audio on which a model is compared."""
    parser.add_argument(
        '--audio',
        nargs='+',
        metavar='PATH',
        help='files, folders or manifests of audio to compare on (default: example recordings)',
    )


def run(args: argparse.Namespace) -> int:
    """Export the model and print the parity report."""
    logging.getLogger().setLevel(logging.WARNING)  # exporters of other packages report every step
    print(export.export(args.source, args.out, args.format, args.audio, args.stream, args.dtype))
    return 0
