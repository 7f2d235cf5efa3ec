"""`audiocodec decode IN.acs OUT.wav`: decode a stream to an audio file."""

import argparse
from pathlib import Path

from audiocodec import bitstream
from audiocodec.cli.codec.encode import find_tables
from audiocodec.cli.codec.export import SOURCE
from audiocodec.data.audio import write_audio
from audiocodec.models.export.source import open_source
from audiocodec.models.pretrained import NAMES
from audiocodec.utils.files import check_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        'A stream that is still being written decodes as far as it goes. Exit code: 1 if packets '
        'were lost; they are silent.'
    )
    parser.add_argument('input', metavar='IN', help='stream of `audiocodec encode`')
    parser.add_argument('out', metavar='OUT', help='.wav, .flac, .ogg or .mp3 to write')
    parser.add_argument('--model', help=f'{SOURCE} (default: what the stream was encoded with)')
    parser.add_argument(
        '--tables',
        metavar='PATH',
        help='tables that the stream was encoded with (default: those next to the model)',
    )


def run(args: argparse.Namespace) -> int:
    """Decode, write the audio, and print what was found."""
    check_out(args.out)
    path = Path(args.input)
    if not path.is_file():
        raise ValueError(f'{path}: no such file')
    with path.open('rb') as file:
        try:
            reader = bitstream.BitstreamReader(file, patience=None)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        header = reader.header
        name = args.model or _named(header.model)
        model = open_source(name).model
        bitstream.check_model(header, model)
        tables = None
        if header.tables_hash != bitstream.NO_HASH:
            tables = find_tables(args.tables, name)
        decoded = bitstream.decode(model.for_cpu(), reader, tables)
    write_audio(args.out, decoded.wav, model.output_sample_rate)
    seconds = decoded.wav.shape[-1] / model.output_sample_rate
    print(f'{args.out}: {seconds:.2f} s, {decoded.lost:.2f} s of it lost ({reader.damage})')
    return int(reader.damage.lost > 0)


def _named(name: str) -> str:
    """Return the name of a model in a stream, which anyone may have written.

    Of models that are not here, only those in `NAMES` are downloaded.

    Raises:
        ValueError: the model must be given by the user.
    """
    if name and (name.startswith('//sig/') or name in NAMES or Path(name).expanduser().exists()):
        return name
    raise ValueError(
        f'the stream was encoded with the model {name!r}, which is not here: use --model'
    )
