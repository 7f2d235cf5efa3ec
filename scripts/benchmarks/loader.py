"""Segments a second out of audio files, or out of shards."""

import argparse
import time
from typing import Any

import torch

from audiocodec.data import AudioDataset, is_shards, load_shards, load_source, make_loader
from benchmarks.measuring import medians, peak_bytes, spreads

HELP = 'segments a second of a folder, manifest or shards'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is loaded, and as what."""
    parser.add_argument('--source', required=True, help='folder with audio, manifest, or folder of shards')
    parser.add_argument('--sample_rate', type=int, default=24000, help='of the segments (Hz)')
    parser.add_argument('--channels', type=int, default=1, help='of the segments')
    parser.add_argument('--seconds', type=float, default=1.0, help='of a segment')
    parser.add_argument('--batch', type=int, default=16, help='segments')
    parser.add_argument('--workers', type=int, default=1, help='loading processes')
    parser.add_argument('--steps', type=int, default=30, help='batches that count')
    parser.add_argument('--warmup', type=int, default=4, help='batches before them')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu', help='ignored: loading is the work of the CPU')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the batches of one epoch as they come."""
    torch.set_num_threads(args.threads)
    metas = load_shards(args.source) if is_shards(args.source) else load_source(args.source)
    batches = args.warmup + args.steps
    dataset = AudioDataset(metas, args.sample_rate, args.channels, args.seconds, args.batch * batches)
    loader = make_loader(dataset, args.batch, args.workers)
    times, before = [], time.perf_counter()
    for _ in loader:
        now = time.perf_counter()
        times.append((now - before) * 1000)
        before = now
    counted = {'batch': times[args.warmup:]}
    total = sum(counted['batch'])  # batches come in bursts, of several processes: the rate is that of all of them
    rate = args.batch * args.steps / total * 1000
    return {'files': len(metas), 'ms': {'total': round(total / args.steps, 3), **medians(counted)},
            'spread': spreads(counted), 'peak_bytes': peak_bytes(), 'segments_per_second': round(rate, 1),
            'segments_per_second_and_worker': round(rate / max(1, args.workers), 1)}
