"""`audiocodec tables MODEL AUDIO`: fit the tables with which `encode` needs fewer bits."""

import argparse
import math
from collections.abc import Sequence

import torch

from audiocodec import bitstream
from audiocodec.cli.codec.encode import tables_beside
from audiocodec.cli.codec.export import SOURCE
from audiocodec.data import AudioDataset, AudioMeta, load_source, make_loader
from audiocodec.models import CompressionModel
from audiocodec.models.export.source import open_source
from audiocodec.utils.files import check_out
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
    """Fit and write the tables, and print their rates on a tenth of the files, held out."""
    if not 0 < args.hours < math.inf:
        raise ValueError(f'--hours {args.hours}: expected more than 0')
    out = check_out(args.out or tables_beside(args.source))
    source = open_source(args.source)
    model = source.model
    model.set_num_codebooks(model.total_codebooks)
    header = bitstream.describe(model)
    metas = load_source(args.audio)
    fast = model.for_cpu()
    items = _codes(
        fast,
        [meta for index, meta in enumerate(metas) if index % 10 or len(metas) == 1],
        args.hours,
    )
    tables = bitstream.fit_tables(
        items, model.cardinality, header.frames_per_packet, header.model_hash
    )
    tables.save(out)
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB for {source.name}')
    held_out = _codes(fast, metas[::10], args.hours / 10)
    print('rates on files held out' if len(metas) > 1 else 'rates on the same file: not held out')
    print(rates(tables, held_out, header.frames_per_packet, model.frame_rate))
    return 0


def rates(
    tables: bitstream.Tables,
    items: Sequence[torch.Tensor],
    frames_per_packet: int,
    frame_rate: float,
) -> str:
    """Format the bits per code of each level, with a fixed width and with tables."""
    packets = [part for item in items for part in item.split(frames_per_packet, dim=-1)]
    frames = sum(packet.shape[-1] for packet in packets)
    bits = sum(tables.bits(packet.numpy()) for packet in packets) / frames
    fixed = math.log2(tables.cardinality)
    lines = ['level  fixed  coded   saved']
    for level, coded in enumerate(bits):
        lines.append(f'{level + 1:5d}  {fixed:5.2f}  {coded:5.2f}  {1 - coded / fixed:6.1%}')
    before, after = (rate * frame_rate / 1000 for rate in (fixed * len(bits), bits.sum()))
    lines.append(f'kbps   {before:5.3g}  {after:5.3g}  {1 - after / before:6.1%}')
    return '\n'.join(lines)


@torch.no_grad()
def _codes(model: CompressionModel, metas: Sequence[AudioMeta], hours: float) -> list[torch.Tensor]:
    """Encode segments drawn from files; returns codes [K, n] of each."""
    seconds = 10.0
    dataset = AudioDataset(
        metas,
        model.sample_rate,
        model.channels,
        segment_duration=seconds,
        num_samples=max(1, round(hours * 3600 / seconds)),
        min_segment_ratio=0.0,
        pad=False,
    )
    loader = make_loader(dataset, batch_size=1, drop_last=False)
    with Progress(loader, len(loader), desc='Encode', unit='segment') as segments:
        return [model.encode(wav)[0][0] for wav in segments]
