"""Time to quality: validation over the updates of one short training, on batches that a peer reads.

The first call writes the batches to a folder. Each further one, of this script or of a peer's, with
the same folder trains on them in the same order.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Stopwatch, summary

if TYPE_CHECKING:
    import torch

    from audiocodec.solvers import CompressionSolver

HELP = 'validation over the updates of a short training on real audio'
DEFAULTS: dict[str, Any] = {'threads': 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the peer script, and further ones."""
    parser.add_argument('--recipe', default='encodec_small_24khz', help='solver=compression/RECIPE')
    parser.add_argument(
        '--batches',
        type=Path,
        required=True,
        metavar='FOLDER',
        help='batches to train on; if it does not exist, those of the recipe are written there',
    )
    parser.add_argument('--updates', type=int, default=500, help='length of the training')
    parser.add_argument('--every', type=int, default=20, help='updates between validations')
    parser.add_argument('overrides', nargs='*', help='overrides, such as seed=1')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train, and return a list per metric, with one value per validation.

    Raises:
        ValueError: the configuration refuses an override, or there are too few batches.
    """
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    if args.every < 1 or args.updates < 1:
        raise ValueError(f'--updates {args.updates} --every {args.every}: expected 1 or more')
    solver = _solver(args)
    if not args.batches.is_dir():
        _write(solver, args.batches)
    _check(solver, args.batches)
    batches = np.load(args.batches / 'train.npy', mmap_mode='r')
    if len(batches) < args.updates:
        raise ValueError(
            f'{args.batches} holds {len(batches)} batches, fewer than --updates {args.updates}'
        )
    held_out = torch.from_numpy(np.load(args.batches / 'valid.npy'))
    found: dict[str, list[float]] = {}
    watch = Stopwatch(args.device)
    for update in range(1, args.updates + 1):
        wav = torch.from_numpy(np.array(batches[update - 1]))
        with watch.measure('total'):
            solver.model.train()
            solver.run_step(wav.to(solver.device))
        if update % args.every == 0 or update == args.updates:
            seconds = sum(watch.times['total']) / 1000
            values = {'update': update, 'seconds': seconds, **validate(solver, held_out)}
            for name, value in values.items():
                found.setdefault(name, []).append(round(value, 4))
    return {**summary(watch.times), 'curve': found}


def validate(solver: 'CompressionSolver', wavs: 'torch.Tensor') -> dict[str, float]:
    """Return the metrics of waveforms [N, C, T] with averaged weights."""
    from audiocodec.run.averager import Averager

    averager = Averager()
    with solver.averaged_model():
        for wav in wavs.split(8):
            averager.update(solver.valid_step(wav.to(solver.device)), weight=len(wav))
    found = averager.read()
    names = ('mel', 'sisnr', 'codebook_usage', 'codebook_usage_min')
    return {name: found[name] for name in names if name in found}


def _solver(args: argparse.Namespace) -> 'CompressionSolver':
    from audiocodec import train

    with tempfile.TemporaryDirectory() as folder:
        xp = train.main.get_xp(
            [
                f'solver=compression/{args.recipe}',
                f'device={args.device}',
                f'dora.dir={folder}',
                f'num_threads={args.threads}',
                f'optim.updates_per_epoch={args.updates}',
                'optim.epochs=1',
                *args.overrides,
            ]
        )
        with xp.enter():
            return train.get_solver(xp.cfg)


def _format(solver: 'CompressionSolver') -> dict[str, Any]:
    """Return what batches must have in common with the recipe that trains on them."""
    cfg = solver.cfg
    samples = round(cfg.dataset.segment_duration * cfg.sample_rate)
    return {
        'sample_rate': cfg.sample_rate,
        'shape': [cfg.dataset.batch_size, cfg.channels, samples],
    }


def _check(solver: 'CompressionSolver', folder: Path) -> None:
    path = folder / 'format.json'
    found, expected = json.loads(path.read_text()) if path.is_file() else {}, _format(solver)
    if found != expected:
        raise ValueError(
            f'{folder} holds batches of {found or "an unknown format"}, and the recipe takes '
            f'{expected}: give another folder'
        )


def _write(solver: 'CompressionSolver', folder: Path) -> None:
    """Write the batches of the first epoch, and the validation split."""
    import numpy as np
    import torch

    loader = solver.dataloaders['train']
    loader.set_epoch(1, 0)
    train = np.stack([wav.numpy() for wav, _ in loader])
    valid = torch.cat([wav for wav, _ in solver.dataloaders['valid']]).numpy()
    folder.mkdir(parents=True)
    (folder / 'format.json').write_text(json.dumps(_format(solver)))
    np.save(folder / 'valid.npy', valid)
    np.save(folder / 'train.npy', train)
