"""`audiocodec tables MODEL AUDIO`: fit the tables with which `encode` needs fewer bits."""

import argparse
from pathlib import Path

import torch

from audiocodec import bitstream
from audiocodec.cli.codec.encode import tables_beside
from audiocodec.cli.codec.export import SOURCE
from audiocodec.data import AudioDataset, load_source, make_loader
from audiocodec.models import CompressionModel
from audiocodec.models.export.source import open_source
from audiocodec.utils.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = 'docs/bitstream.md has the rates with and without tables.'
    parser.add_argument('source', metavar='CHECKPOINT_OR_SIG', help=SOURCE)
    parser.add_argument(
        'audio', metavar='AUDIO', help='manifest, folder or file of audio that the model trained on'
    )
    parser.add_argument('--out', metavar='PATH', help='file to write (default: next to the model)')
    parser.add_argument(
        '--hours', type=float, default=2.0, help='duration of the audio to draw (%(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Fit and write the tables, and print their rates."""
    source = open_source(args.source)
    model = source.model
    out = Path(args.out) if args.out else tables_beside(args.source)
    model.set_num_codebooks(model.total_codebooks)
    header = bitstream.describe(model)
    items = _codes(model.for_cpu(), args.audio, args.hours)
    tables = bitstream.fit_tables(
        items, model.cardinality, header.frames_per_packet, header.model_hash
    )
    tables.save(out)
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB for {source.name}')
    return 0


@torch.no_grad()
def _codes(model: CompressionModel, audio: str, hours: float) -> list[torch.Tensor]:
    """Encode segments drawn from audio; returns codes [K, n] of each."""
    seconds = 10.0
    dataset = AudioDataset(
        load_source(audio),
        model.sample_rate,
        model.channels,
        segment_duration=seconds,
        num_samples=max(1, round(hours * 3600 / seconds)),
        pad=False,
    )
    loader = make_loader(dataset, batch_size=1, drop_last=False)
    with Progress(loader, len(loader), desc='Encode', unit='segment') as segments:
        return [model.encode(wav)[0][0] for wav in segments]
