"""`audiocodec info [CHECKPOINT_OR_SIG]`: describe a model, or this installation."""

import argparse
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from audiocodec import __version__
from audiocodec.cli.bands import band_rows
from audiocodec.cli.codec.export import SOURCE
from audiocodec.models import CompressionModel
from audiocodec.models.description import model_rows
from audiocodec.models.export.source import open_source
from audiocodec.run import records
from audiocodec.run.device import gpu_text
from audiocodec.utils import cpus, paths

_SHOWN_RUNS = 10  # of an experiment, the last ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('source', metavar='CHECKPOINT_OR_SIG', nargs='?', help=SOURCE)


def run(args: argparse.Namespace) -> int:
    """Print one row per fact."""
    rows = list(_model(args.source) if args.source else _installation())
    width = max(len(name) for name, _ in rows)
    print('\n'.join(f'{name:<{width}}  {text}' for name, text in rows))
    return 0


def _model(name: str) -> Iterator[tuple[str, str]]:
    source = open_source(name)
    model: CompressionModel = source.model
    yield 'source', f'{type(model).__name__}, {source.name}'
    if source.path is not None:
        yield 'file', f'{source.path}, {source.path.stat().st_size / 1e6:.1f} MB'
    yield from model_rows(model)
    if source.path is not None:
        yield from band_rows(source.path.parent)
        yield from _runs(source.path.parent)


def _runs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield when, where and how an experiment was started, and what its last start ran."""
    found = records.read(folder)
    for number, run in list(enumerate(found, start=1))[-_SHOWN_RUNS:]:
        outcome = run['outcome'] or 'has not ended'
        after = f' after {run["updates"]} updates' if 'updates' in run else ''
        hardware = run['hardware']
        device = hardware.get('gpu') or f'{hardware["device"]} with {hardware["cores"]} cores'
        yield (
            f'run {number}',
            f'{run["started"]} on {run["host"]}, {run["workers"]} x {device}: {outcome}{after}',
        )
    if not found:
        return
    last = found[-1]
    yield 'command', last['command']
    for place, state in last['code'].items():
        if isinstance(state, str):
            yield place, state
        else:
            changed = len(state['changed'])
            diff = f', {changed} files changed, see {folder / records.FOLDER}' if changed else ''
            yield 'code', f'{place} at {state["commit"][:12]}{diff}'
    yield 'packages', ', '.join(f'{name} {version}' for name, version in last['packages'].items())
    yield 'environment', ' '.join(f'{name}={value}' for name, value in last['environment'].items())


def _installation() -> Iterator[tuple[str, str]]:
    yield 'audiocodec', f'{__version__} in {paths.ROOT}'
    yield 'python', f'{platform.python_version()} on {platform.platform()}'
    installed = records.versions()
    for name in records.PACKAGES:
        yield name, installed.get(name, 'not installed')
    yield 'cpu', f'{cpus.usable_cores()} cores, {torch.backends.cpu.get_cpu_capability()}'
    if not torch.cuda.is_available():
        yield 'cuda', 'no device'
    for index in range(torch.cuda.device_count()):
        yield f'cuda:{index}', gpu_text(index)
