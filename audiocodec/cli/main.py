"""The `audiocodec` command: runs a subcommand, and shows errors that a user can fix in one line.

A subcommand is a module of this folder, or of `codec` or `data`, with `add_arguments(parser)` and
`run(args)`, which returns the exit code. Only the chosen one is imported, so that
`audiocodec --help` is instant.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from audiocodec import __version__
from audiocodec.utils.errors import RunError

# subcommand -> its module and its line in the help
COMMANDS = {
    'doctor': (
        'data.doctor',
        'check the audio of a manifest or folder, and write a manifest of the good files',
    ),
    'manifest': (
        'data.manifest',
        'write a manifest of the audio files below a folder, or of another list',
    ),
    'shards': (
        'data.shards',
        'decode, resample and pack audio into shards, which load without decoding',
    ),
    'export': ('codec.export', 'write a model in another format, and compare the two on audio'),
    'certify': (
        'codec.certify',
        'compare the ways of computing a model: batches, streams, exports',
    ),
    'encode': ('codec.encode', 'encode an audio file as a stream of bits'),
    'decode': ('codec.decode', 'decode a stream of bits to an audio file'),
    'tables': ('codec.tables', 'fit entropy coding to a model, so that encode needs fewer bits'),
    'tokens': (
        'codec.tokens',
        'encode a folder or manifest into the codes of a model, to train language models on',
    ),
    'usage': ('codec.usage', 'measure how much of each codebook a model uses on audio'),
    'evaluate': ('evaluate', 'score models and classical codecs on audio, at any bit rates'),
    'report': (
        'report',
        'write a page with plots, spectrograms and players of evaluations and runs',
    ),
    'grid': ('grid', 'run the experiments of a grid on this machine, in a queue over its GPUs'),
    'info': ('info', 'describe a model or checkpoint; without one, this installation'),
}
_INTERRUPTED = 130  # exit code of shells for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for those of the process.

    Returns:
        The exit code: 0, or 1 if the input or the result has problems.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog='audiocodec',
        description='Tools around neural audio codecs. Training is started with `dora run`.',
    )
    parser.add_argument('--version', action='version', version=f'audiocodec {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    chosen = next((argument for argument in argv if not argument.startswith('-')), None)
    for name, (place, text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=_sentence(text))
        if name == chosen:
            module = importlib.import_module(f'audiocodec.cli.{place}')
            module.add_arguments(subparser)
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.INFO)
    try:
        code: int = module.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # `audiocodec ... | head` has read enough. Python flushes stdout again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RunError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _sentence(text: str) -> str:
    return f'{text[0].upper()}{text[1:]}.'
