"""Runs killed at random moments and started again, compared with one left alone.

As a program, a campaign: `python tests/support/interruptions.py --kills 30 --seed 0`. The tests
run short ones."""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from forked import Forked

from audiocodec.run import checkpoint

ROOT = Path(__file__).resolve().parents[2]
# Small, with everything on; a checkpoint after every update, so that many kills come while one is
# being written.
RECIPE = [
    'solver=compression/debug',
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'device=cpu',
    'dataset.batch_size=4',
    'dataset.segment_duration=0.25',
    'dataset.num_workers=1',
    'dataset.valid.num_samples=6',
    'rvq.n_q=3',
    'rvq.bins=32',
    'checkpoint.every_updates=1',
    'num_threads=1',
    'evaluate.every=null',
    'generate.every=null',
    'logging.tensorboard=false',
    'logging.log_seconds=0',
    'schedule=cosine',
]
_TIMES = (
    'duration',
    'data_wait',
    'updates_per_second',
)  # metrics that tell how long something took


def start(folder, *overrides, workers=1):
    distributed = [] if workers == 1 else ['-d', f'--ddp_workers={workers}']
    return Forked(
        ['-m', 'dora', 'run', *distributed, '--', *RECIPE, *overrides],
        cwd=ROOT,
        env={**os.environ, 'AUDIOCODEC_DORA_DIR': str(folder), 'OMP_NUM_THREADS': '1'},
    )


def finish(process, timeout=300):
    """Return exit code and output."""
    text = process.communicate(timeout=timeout)[1]
    return process.returncode, text


def kill(process, number):
    """Send a signal to all processes of a run, as a cluster does."""
    os.killpg(process.pid, number)


def checkpoint_of(folder):
    (found,) = (folder / 'xps').iterdir()
    return found / 'checkpoint.th'


def fingerprint(path):
    """Return a hash of everything in a checkpoint except times."""
    digest = hashlib.sha256()

    def add(value, name):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(str((value.dtype, tuple(value.shape))).encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                if key not in _TIMES:
                    add(value[key], f'{name}.{key}')
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                add(item, f'{name}[{index}]')
        else:
            digest.update(repr(value).encode())

    content = checkpoint.load_checkpoint(path)
    add(content['state'], 'state')
    add(content['position'], 'position')
    return digest.hexdigest()


def interrupted(folder, overrides, kills, rng, report=None):
    """Run to the end through `kills` interruptions at random moments; returns how often each kind
    came.
    """
    sent = dict.fromkeys(['SIGKILL', 'SIGTERM', 'SIGUSR1', 'SIGKILL while writing'], 0)
    while sum(sent.values()) < kills:
        process = start(folder, *overrides)
        kind = rng.choice(list(sent))
        name = kind.split()[0]
        _wait_for_moment(folder, process, kind, rng)
        over = process.poll() is not None
        if not over:
            kill(process, getattr(signal, name))
        code, text = finish(process)
        writing = bool(_half_written(folder))
        if over:
            assert code == 0, text
            break
        sent['SIGKILL while writing' if writing else name] += 1
        if report is not None:
            report(
                f'{sum(sent.values()):3d} '
                f'{name}{" while a checkpoint was being written" if writing else ""}: '
                f'exit code {code}'
            )
        if name == 'SIGKILL':
            assert code == -signal.SIGKILL, (code, text)
        # before its handlers are there, the signal ends a process at once; afterwards it saves
        else:
            assert code in (-getattr(signal, name), 128 + getattr(signal, name)), (code, text)
    code, text = finish(start(folder, *overrides))
    assert code == 0, text
    return sent


def _half_written(folder):
    return list(folder.glob('xps/*/.checkpoint.th.*.tmp'))


def _wait_for_moment(folder, process, kind, rng):
    """Wait for the moment to interrupt: in one run of five during startup."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0.5, 6.0))
        return
    for left in _half_written(folder):
        left.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob('xps/*/checkpoint.th')}

    def has_saved():
        files = folder.glob('xps/*/checkpoint.th')
        return any(before.get(path) != path.stat().st_mtime_ns for path in files)

    while process.poll() is None and not has_saved():
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 3.0))
    while kind == 'SIGKILL while writing' and process.poll() is None and not _half_written(folder):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--updates', type=int, default=25)
    args = parser.parse_args()
    overrides = [f'optim.epochs={args.epochs}', f'optim.updates_per_epoch={args.updates}']
    with tempfile.TemporaryDirectory() as root:
        whole, parts = Path(root) / 'whole', Path(root) / 'parts'
        code, text = finish(start(whole, *overrides), timeout=3600)
        assert code == 0, text
        sent = interrupted(parts, overrides, args.kills, random.Random(args.seed), report=print)
        hashes = [fingerprint(checkpoint_of(folder)) for folder in (whole, parts)]
        print(
            json.dumps(
                {
                    'sent': sent,
                    'uninterrupted': hashes[0],
                    'interrupted': hashes[1],
                    'equal': hashes[0] == hashes[1],
                }
            )
        )
        return int(hashes[0] != hashes[1])


if __name__ == '__main__':
    sys.exit(main())
