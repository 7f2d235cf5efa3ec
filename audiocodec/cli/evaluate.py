"""`audiocodec evaluate MODEL... --data AUDIO --out DIR`: score models and classical codecs."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from audiocodec.cli.codec.export import SOURCE
from audiocodec.data import AudioDataset, load_source
from audiocodec.evaluation import AAC, MP3, Codec, Opus, System
from audiocodec.evaluation.rows import Row
from audiocodec.evaluation.runner import Evaluation
from audiocodec.evaluation.stability import NAMES as STABILITY
from audiocodec.evaluation.summary import summarize
from audiocodec.evaluation.tables import (
    summary_table,
    system_lines,
    token_table,
    unscored_lines,
    write_tables,
)
from audiocodec.metrics import Metric
from audiocodec.models.export.source import open_source
from audiocodec.run import launch
from audiocodec.utils import config, cpus, distrib, files, paths
from audiocodec.utils.progress import Progress

_WAIT = 7 * 24 * 3600.0  # seconds for which a worker that is done waits for the others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    nodes, defaults = _metric_nodes()
    parser.epilog = (
        'Results of an interrupted call are kept, and the same call completes them. '
        'docs/evaluation.md describes the files.'
    )
    parser.add_argument(
        'models',
        metavar='MODEL',
        nargs='*',
        help=f'{SOURCE}; NAME=MODEL to choose its name in the tables',
    )
    parser.add_argument('--data', required=True, help='manifest, folder or file of audio, held out')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder of the results')
    parser.add_argument(
        '--kbps',
        type=float,
        nargs='+',
        help='bit rates of the models (default: the rate that is set, usually the highest)',
    )
    for name, text in (('opus', 'Opus'), ('mp3', 'MP3'), ('aac', 'AAC, with the extra av')):
        parser.add_argument(
            f'--{name}', type=float, nargs='+', metavar='KBPS', help=f'bit rates of {text}'
        )
    parser.add_argument(
        '--metrics',
        nargs='+',
        metavar='NAME',
        default=defaults,
        help=f'metrics, or all: {", ".join(nodes)} (default: {" ".join(defaults)})',
    )
    parser.add_argument('--items', type=int, help='number of items (default: one per file)')
    parser.add_argument(
        '--seconds', type=float, help='duration of an item, drawn at random (default: whole files)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draws (%(default)s)')
    parser.add_argument(
        '--sample_rate', type=int, help='sample rate of the comparison, Hz (default: of MODEL)'
    )
    parser.add_argument('--channels', type=int, help='channels (default: of MODEL)')
    parser.add_argument(
        '--baseline',
        metavar='SYSTEM@KBPS',
        help='compare the others with it, item by item, e.g. Opus@6',
    )
    parser.add_argument(
        '--listen', type=int, default=12, help='items whose audio is kept (%(default)s)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        help='processes that score, of each worker of torchrun (default: one per core)',
    )
    parser.add_argument('--device', default='cpu', help='where models run (%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the summary and write the tables; under torchrun, with its other workers."""
    logging.getLogger().setLevel(logging.WARNING)
    place = launch.join_torchrun(_WAIT)
    code = _evaluate(args, place)
    launch.leave_workers()
    return code


def _evaluate(args: argparse.Namespace, place: launch.Place) -> int:
    """Evaluate as one of several workers; return the exit code."""
    folder = files.check_out(args.out, folder=True)
    if args.device == 'cuda' and place.world_size > 1:
        args.device = f'cuda:{place.local_rank}'
    baseline = _baseline(args.baseline)
    metrics = make_metrics(args.metrics)
    models = [_open(text, args.device, args.kbps) for text in args.models]
    systems: list[System] = [*models]
    for kind, rates in ((Opus, args.opus), (MP3, args.mp3), (AAC, args.aac)):
        if rates:
            systems.append(kind(rates))
    if not systems:
        raise ValueError('nothing to evaluate: name a MODEL, or a codec such as --opus 6 12 24')
    dataset = _dataset(args, models)
    for metric in metrics.values():
        metric.prepare(dataset.sample_rate)
    items = -(-len(dataset) // place.world_size)
    workers = min(args.workers or max(1, cpus.usable_cores() // place.local_world_size), items)
    if (workers > 1 and models) or place.world_size > 1:
        # each process has one thread, and this one computes the models
        torch.set_num_threads(1)
    data = {'source': args.data, 'seconds': args.seconds, 'seed': args.seed}
    evaluation = Evaluation(folder, dataset, systems, metrics, data, workers, args.listen)
    missing = len(evaluation.remaining())
    first = place.rank == 0
    with Progress(total=missing, desc='Evaluate', unit='item', enabled=first) as bar:
        rows = evaluation.run(bar.update)
    if not first:
        return int(bool(evaluation.failures.counts))
    summary = summarize(rows, [*metrics, *STABILITY], baseline)
    tokens = [
        {'system': name, 'rate': rate, **figures}
        for name, rate, figures in evaluation.token_statistics()
    ]
    tokens = write_tables(folder, summary, tokens)
    print(_report(evaluation, rows, summary, tokens, args.baseline))
    if evaluation.failures.counts:
        print(f'failed: {evaluation.failures}')
    return int(bool(evaluation.failures.counts))


def _report(
    evaluation: Evaluation,
    rows: Sequence[Row],
    summary: Sequence[Row],
    tokens: Sequence[Row],
    baseline: str | None,
) -> str:
    """Return what is printed."""
    lines = [summary_table(summary, evaluation.info['metrics'], baseline)]
    if tokens:
        lines += ['', token_table(tokens, summary)]
    lines += ['', *system_lines(evaluation.info['systems']), *unscored_lines(rows)]
    lines += [f'{len(rows)} rows in {evaluation.folder}; audiocodec report {evaluation.folder}']
    return '\n'.join(lines)


def _metric_nodes() -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of the default configuration, and the names of those switched on.

    That of the official binary is left out: it needs the folder of the binary.
    """
    defaults = yaml.safe_load((paths.ROOT / 'config' / 'config.yaml').read_text())
    nodes = {
        name: node for name, node in defaults['metrics'].items() if node.get('bin', '') is not None
    }
    return nodes, [name for name in nodes if defaults['evaluate']['metrics'][name]]


def make_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Build metrics by name; `all` stands for every one.

    Raises:
        ValueError: unknown name, or a package is not installed.
    """
    nodes, _ = _metric_nodes()
    for name in names:
        if name != 'all' and name not in nodes:
            raise ValueError(
                f'--metrics {name}: expected all, or of {", ".join(nodes)}'
                f'{config.nearest(name, nodes)}'
            )
    wanted = list(nodes) if 'all' in names else list(dict.fromkeys(names))
    return {name: config.build(nodes[name], f'metrics.{name}') for name in wanted}


def _open(text: str, device: str, kbps: Sequence[float] | None) -> Codec:
    """Load `NAME=MODEL` or `MODEL`."""
    name, separator, model = text.partition('=')
    source = open_source(model if separator else text)
    chosen = name if separator else source.origin.get('sig') or Path(text).stem or text
    return Codec(str(chosen), source.model.to(device), kbps)


def _dataset(args: argparse.Namespace, models: Sequence[Codec]) -> AudioDataset:
    files = distrib.from_rank_zero(lambda: load_source(args.data))
    return AudioDataset(
        files,
        args.sample_rate or (models[0].sample_rate if models else files[0].sample_rate),
        args.channels or (models[0].channels if models else files[0].channels or 1) or 1,
        segment_duration=args.seconds,
        num_samples=args.items,
        shuffle=False,
        pad=False,
        return_info=True,
        seed=args.seed,
    )


def _baseline(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    name, _, rate = text.rpartition('@')
    try:
        return name, float(rate)
    except ValueError:
        raise ValueError(
            f'--baseline {text}: expected SYSTEM@KBPS, such as Opus@6 or the name of a model'
        ) from None
