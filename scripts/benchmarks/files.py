"""Very many short files: time to index them and to start training, memory of a loading process."""

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from audiocodec.data import AudioDataset, index_folder, load_manifest, make_loader, save_manifest
from benchmarks import startup
from benchmarks.common import Stopwatch, summary

HELP = 'indexing of many short files, the start of training, and memory of a loading process'
DEFAULTS: dict[str, Any] = {'steps': 1, 'warmup': 0, 'threads': 1}
_RATE = 16000
_FOLDER = 1000  # files in a folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the files and the batches."""
    parser.add_argument('--files', type=int, default=200000, help='files of 0.1 to 0.3 s, 16 kHz')
    parser.add_argument('--batches', type=int, default=1000, help='batches of 16 segments to load')
    parser.add_argument('--train', type=int, default=1, choices=(0, 1), help='0: no training run')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time each step once; the files are in the file system's cache, since they were written now.

    Returns:
        A result (see `common`); `memory` has the private bytes of a loading process after a tenth
        of the batches, after half and after all.

    Raises:
        ValueError: the training run fails.
    """
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / 'audio'
        _write(folder, args.files)
        os.environ['XDG_CACHE_HOME'] = f'{place}/cache'
        with watch.measure('index'):
            metas = index_folder(folder)
        with watch.measure('index_again'):
            metas = index_folder(folder)
        save_manifest(metas, Path(place) / 'all.jsonl.gz')
        with watch.measure('load_manifest'):
            metas = load_manifest(Path(place) / 'all.jsonl.gz')
        if args.train:
            environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'AUDIOCODEC_DORA_DIR': place}
            overrides = [
                'solver=compression/debug',
                'dset=audio/folder',
                f'datasource.folder={folder}',
                f'device={args.device}',
            ]
            with watch.measure('first_update'):
                startup.first_update(overrides, environment)
        memory = _memory(metas, args.batches)
    return {**summary(watch.times), 'memory': memory}


def _write(folder: Path, number: int) -> None:
    rng = np.random.default_rng(0)
    noise = (3000 * rng.standard_normal(2 * _RATE)).astype(np.int16)
    for index in range(number):
        if index % _FOLDER == 0:
            part = folder / f'{index // _FOLDER:04d}'
            part.mkdir(parents=True)
        begin, length = rng.integers(_RATE), rng.integers(_RATE // 10, 3 * _RATE // 10)
        soundfile.write(part / f'{index:07d}.wav', noise[begin : begin + length], _RATE)


def _memory(metas: Any, batches: int) -> dict[str, int]:
    """Return the private memory of a loading process after some batches."""
    dataset = AudioDataset(metas, _RATE, 1, 0.1, 16 * batches)
    marks = {max(1, round(batches * part)) for part in (0.1, 0.5, 1)}
    found, process = {}, None
    for number, _ in enumerate(make_loader(dataset, 16, 1), 1):
        if process is None:
            (process,) = multiprocessing.active_children()
        if number in marks:
            found[f'after_{number}'] = _private_bytes(process.pid)
    return found


def _private_bytes(pid: int | None) -> int:
    """Return the memory of a process that it shares with no other."""
    with open(f'/proc/{pid}/smaps_rollup') as lines:
        sizes = [line.split()[1] for line in lines if line.startswith('Private_')]
    return 1024 * sum(map(int, sizes))
