"""Segments per second loaded from audio files or shards."""

import argparse
from typing import Any

import torch

from audiocodec.data import AudioDataset, is_shards, load_shards, load_source, make_loader
from benchmarks.common import time_batches

HELP = 'segments per second of a folder, manifest or shards'
DEFAULTS = {'steps': 30, 'warmup': 4, 'threads': 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the source and the segments."""
    parser.add_argument(
        '--source', required=True, help='folder with audio, manifest, or folder of shards'
    )
    parser.add_argument('--sample_rate', type=int, default=24000, help='of the segments (Hz)')
    parser.add_argument('--channels', type=int, default=1, help='of the segments')
    parser.add_argument('--seconds', type=float, default=1.0, help='of a segment')
    parser.add_argument('--batch', type=int, default=16, help='segments; steps are batches')
    parser.add_argument('--workers', type=int, default=1, help='loading processes')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the batches of one epoch as they arrive; loading uses the CPU whatever the device.

    Raises:
        ValueError: the source has no audio.
    """
    torch.set_num_threads(args.threads)
    metas = load_shards(args.source) if is_shards(args.source) else load_source(args.source)
    dataset = AudioDataset(
        metas,
        args.sample_rate,
        args.channels,
        args.seconds,
        args.batch * (args.warmup + args.steps),
    )
    loader = make_loader(dataset, args.batch, args.workers)
    return {
        'files': len(metas),
        **time_batches(loader, args.batch, args.workers, args.steps, args.warmup),
    }
