"""`audiocodec usage CHECKPOINT_OR_SIG AUDIO`: measure usage and perplexity of each codebook."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from audiocodec.cli.codec.export import SOURCE
from audiocodec.data import AudioDataset, load_source, make_loader
from audiocodec.models import CompressionModel
from audiocodec.models.export.source import open_source
from audiocodec.quantization import CodeUsage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = 'Exit code: 1 if the usage of a codebook is below the threshold.'
    parser.add_argument('source', metavar='CHECKPOINT_OR_SIG', help=SOURCE)
    parser.add_argument(
        'audio', metavar='AUDIO', help='manifest, folder or file of audio, best held out'
    )
    parser.add_argument('--items', type=int, default=200, help='segments to draw (%(default)s)')
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='duration of a segment (%(default)s)'
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.5,
        help='usage that every codebook should reach (%(default)s)',
    )
    parser.add_argument('--device', default='cpu', help='where to compute (%(default)s)')
    parser.add_argument('--json', metavar='OUT', help='write the figures, one object per level')


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    source = open_source(args.source)
    usage = measure(source.model, args.audio, args.items, args.seconds, args.device)
    rows = figures(usage)
    print(f'{source.name} on {args.audio}: {table(rows, args.threshold)}')
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + '\n')
    return int(any(row['usage'] < args.threshold for row in rows))


@torch.no_grad()
def measure(
    model: CompressionModel, audio: str, items: int, seconds: float, device: str = 'cpu'
) -> CodeUsage:
    """Count the codes, at all levels, of segments drawn from audio (the same in every call).

    Args:
        model: any model with codebooks; all of them are in use afterwards.
        audio: manifest, folder or file.
        items: number of segments, drawn in proportion to the files' durations.
        seconds: duration of a segment.
        device: where to compute.

    Raises:
        ValueError: the model has no codebooks, or the audio cannot be read.
    """
    if model.total_codebooks == 0:
        raise ValueError('this model is a continuous autoencoder: it has no codebooks')
    model.to(device).eval().set_num_codebooks(model.total_codebooks)
    dataset = AudioDataset(
        load_source(audio),
        model.sample_rate,
        model.channels,
        segment_duration=seconds,
        num_samples=items,
    )
    usage = CodeUsage(model.total_codebooks, model.cardinality)
    for wav in make_loader(dataset, batch_size=min(8, items), drop_last=False):
        usage.add(model.encode(wav.to(device))[0])
    return usage


def figures(usage: CodeUsage) -> list[dict[str, Any]]:
    """Return the figures of each level."""
    stats = {name: values.tolist() for name, values in usage.compute().items()}
    bins = usage.counts.shape[1]
    return [
        {
            'level': level + 1,
            'used': round(stats['usage'][level] * bins),
            'bins': bins,
            'usage': stats['usage'][level],
            'perplexity': stats['perplexity'][level],
            'frames': int(stats['frames'][level]),
        }
        for level in range(len(usage.counts))
    ]


def table(rows: Sequence[dict[str, Any]], threshold: float) -> str:
    """Format the figures; `bits` per frame are those of an ideal entropy coder for the level."""
    bins, frames = rows[0]['bins'], rows[0]['frames']
    lines = [
        f'{frames} frames, {bins} entries per codebook ({math.log2(bins):g} bits)',
        '',
        'level    used   usage  perplexity  bits',
    ]
    for row in rows:
        low = '  <- low' if row['usage'] < threshold else ''
        bits = math.log2(max(row['perplexity'], 1))
        lines.append(
            f'{row["level"]:5d}  {row["used"]:6d}  {row["usage"]:6.1%}  '
            f'{row["perplexity"]:10.1f}  {bits:4.1f}{low}'
        )
    if frames < 20 * bins:
        lines += [
            '',
            f'{frames} frames are too few for {bins} entries, some codes may be missing by chance: '
            'raise --items',
        ]
    return '\n'.join(lines)
