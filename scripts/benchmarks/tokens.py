"""Encoding of a data set into tokens: one process, several, and the time of encoding alone."""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from audiocodec import train
from audiocodec.data import AudioMeta, load_source, read_segment, save_manifest
from audiocodec.models import CompressionModel
from audiocodec.recipe.parts import build_parts
from audiocodec.tokens import make_tokens
from audiocodec.utils import paths
from benchmarks.common import Stopwatch, peak_bytes, ratio, summary

HELP = 'audiocodec tokens: one process, several, and the time of encoding alone'
DEFAULTS = {'steps': 3, 'warmup': 0, 'threads': 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare model and data."""
    parser.add_argument('--recipe', default='encodec_base_24khz', help='of the model')
    parser.add_argument('--kbps', type=float, default=6.0)
    parser.add_argument('--data', default=str(paths.ROOT / 'dataset/example'))
    parser.add_argument('--files', type=int, default=40, help='of the data, evenly spaced')
    parser.add_argument('--workers', type=int, default=2, help='processes')
    parser.add_argument('--format', default='safetensors')
    parser.add_argument('--shards', type=int, default=8, help='shards to divide the files into')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Encode the files in each way, in turn; the audio is in the file system's cache."""
    torch.set_num_threads(args.threads)
    cfg = train.main.get_xp([f'solver=compression/{args.recipe}']).cfg
    torch.manual_seed(0)
    model = build_parts(cfg).model.eval()
    model.set_bandwidth(args.kbps)
    metas = load_source(args.data)
    metas = metas[:: max(1, len(metas) // args.files)][: args.files]
    seconds = sum(meta.duration for meta in metas)
    watch = Stopwatch()
    cpu: dict[str, list[float]] = {}  # seconds, which other programs of the machine hardly change
    with tempfile.TemporaryDirectory() as folder:
        save_manifest(metas, Path(folder) / 'files.jsonl')

        def make(name: str, workers: int) -> None:
            make_tokens(
                model,
                Path(folder) / 'files.jsonl',
                Path(folder) / f'{name}_{len(watch.times.get(name, ()))}',
                'model',
                args.format,
                workers,
                (args.device,),
                seconds / 60 / args.shards,
            )

        fast = model.for_cpu().eval()
        for _ in watch.rounds(args.steps, args.warmup):
            _encode(fast, metas, watch, cpu)
            for name, workers in (('one', 1), ('several', args.workers)):
                before = _cpu_seconds()
                with watch.measure(name):
                    make(name, workers)
                cpu.setdefault(name, []).append(_cpu_seconds() - before)
    times = watch.times
    return {
        **summary(times),
        'audio_seconds': round(seconds, 1),
        'real_time': {
            name: round(1000 * seconds / value, 1) for name, value in summary(times)['ms'].items()
        },
        'cpu_seconds': {
            name: round(statistics.median(used[-args.steps :]), 2) for name, used in cpu.items()
        },
        'peak_bytes': peak_bytes(),
        'ratio': {
            'one / several': ratio(times['one'], times['several']),
            'one / encode': ratio(times['one'], times['encode']),
        },
    }


@torch.no_grad()
def _encode(
    model: CompressionModel, metas: list[AudioMeta], watch: Stopwatch, cpu: dict[str, list[float]]
) -> None:
    """Measure the sum of the times of encoding each file that was read before."""
    total, used = Stopwatch(), 0.0
    for meta in metas:
        wav = read_segment(meta.path, 0, -1, model.sample_rate, model.channels)[None]
        before = _cpu_seconds()
        with total.measure('encode'):
            model.encode(wav)
        used += _cpu_seconds() - before
    watch.times.setdefault('encode', []).append(sum(total.times['encode']))
    cpu.setdefault('encode', []).append(used)


def _cpu_seconds() -> float:
    """Return the CPU time so far of this process and of its children that have ended."""
    return sum(os.times()[:4])
