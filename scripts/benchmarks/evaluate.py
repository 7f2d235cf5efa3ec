"""Evaluation of a model at several rates: in one process and in several, and without the frame."""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from audiocodec import train
from audiocodec.cli.evaluate import make_metrics
from audiocodec.data import AudioDataset, load_source
from audiocodec.evaluation import Codec
from audiocodec.evaluation.runner import Evaluation
from audiocodec.evaluation.stability import stability
from audiocodec.metrics import Metric
from audiocodec.recipe.parts import build_parts
from audiocodec.utils import paths
from benchmarks.common import Times, ratio, summary

HELP = 'audiocodec evaluate: one process, several, and the time of codec and metrics alone'
DEFAULTS = {'steps': 1, 'warmup': 0, 'threads': 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the items, rates and metrics."""
    parser.add_argument('--recipe', default='encodec_base_24khz', help='of the model')
    parser.add_argument('--data', default=str(paths.ROOT / 'dataset/example/evaluate'))
    parser.add_argument('--items', type=int, default=12, help='segments')
    parser.add_argument('--seconds', type=float, default=5.0, help='of a segment')
    parser.add_argument('--kbps', type=float, nargs='+', default=[1.5, 3.0, 6.0, 12.0, 24.0])
    parser.add_argument('--metrics', nargs='+', default=['mel', 'sisnr', 'pesq', 'stoi', 'visqol'])
    parser.add_argument('--workers', type=int, default=2, help='processes')


class Timed(Metric):
    """Times a metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.seconds = 0.0

    def score(
        self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> float | torch.Tensor:
        """See `Metric.score`."""
        begin = time.perf_counter()
        try:
            return self.metric.score(estimate, reference, sample_rate)
        finally:
            self.seconds += time.perf_counter() - begin


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate in one process and in several, in turn."""
    torch.set_num_threads(args.threads)
    os.environ['NUMBA_NUM_THREADS'] = str(args.threads)  # of ViSQOL
    cfg = train.main.get_xp([f'solver=compression/{args.recipe}']).cfg
    codec = Codec('model', build_parts(cfg).model.eval(), args.kbps)
    dataset = AudioDataset(
        load_source(args.data),
        codec.sample_rate,
        codec.source.channels,
        segment_duration=args.seconds,
        num_samples=args.items,
        shuffle=False,
        pad=False,
        return_info=True,
    )
    plain = make_metrics(args.metrics)
    # compiles what is compiled at the first call, for the other processes too
    for metric in plain.values():
        metric.score_item(*torch.randn(2, 1, 2 * codec.sample_rate), codec.sample_rate)
    times: Times = {'one': [], 'several': [], 'alone': []}
    for step in range(args.warmup + args.steps):
        timed: dict[str, Metric] = {name: Timed(metric) for name, metric in plain.items()}
        one, rows = _evaluate(codec, dataset, timed, 1)
        several, _ = _evaluate(codec, dataset, plain, args.workers)
        coding = sum(row['decode_seconds'] for row in rows)
        coding += sum(row['encode_seconds'] for row in rows if row['rate'] == codec.rates[0])
        coding += _stability_seconds(codec, dataset)
        own = sum(metric.seconds for metric in timed.values() if isinstance(metric, Timed))
        if step >= args.warmup:
            for name, seconds in (('one', one), ('several', several), ('alone', coding + own)):
                times[name].append(1000 * seconds)
    times['total'] = times['several']
    ideal = [alone / args.workers for alone in times['alone']]
    return {
        **summary(times),
        'per_second': {'rows': len(rows) / several},
        'ratio': {
            'one / several': ratio(times['one'], times['several']),
            'several / ideal': ratio(times['several'], ideal),
        },
    }


def _stability_seconds(codec: Codec, dataset: AudioDataset) -> float:
    """Return the seconds to measure the stability of the codes of all items."""
    seconds = 0.0
    for index in range(len(dataset)):
        wav = dataset[index][0]
        assert isinstance(wav, torch.Tensor)
        begin = time.perf_counter()
        stability(codec, wav[None])
        seconds += time.perf_counter() - begin
    return seconds


def _evaluate(
    codec: Codec, dataset: AudioDataset, metrics: dict[str, Metric], workers: int
) -> tuple[float, list[dict[str, Any]]]:
    """Return seconds and rows of an evaluation in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Evaluation(Path(folder), dataset, [codec], metrics, {}, workers)
        begin = time.perf_counter()
        rows = evaluation.run()
        return time.perf_counter() - begin, rows
