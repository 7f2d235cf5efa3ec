"""Several workers on this machine: time of an update, collectives and bytes of an update."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HELP = 'an update with 1, 2 and 4 workers; collectives and bytes of an update'
DEFAULTS: dict[str, Any] = {'threads': 1, 'warmup': 3, 'steps': 10}
_ROOT = Path(__file__).resolve().parents[2]
# of torch.distributed: those that an update may call
_COLLECTIVES = ('all_reduce', 'broadcast', 'all_gather_object', 'all_gather', 'barrier')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the numbers of workers and the training run."""
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2, 4], help='to compare')
    parser.add_argument(
        'overrides', nargs='*', default=['solver=compression/debug'], help='of the training run'
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train with each number of workers, the whole batch being the same."""
    from benchmarks.common import summary  # not in the workers

    times, collectives, megabytes = {}, {}, {}
    for workers in args.workers:
        found = _train(args, workers)
        times[str(workers)] = found['times']
        collectives[str(workers)] = found['collectives']
        megabytes[str(workers)] = found['bytes'] / 1e6
    return {**summary(times), 'collectives': collectives, 'megabytes': megabytes}


def _train(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Return the result of worker 0.

    Raises:
        ValueError: the run failed; the message has its output.
    """
    launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={workers}']
    with tempfile.TemporaryDirectory() as folder:
        place = [f'dora.dir={folder}', f'device={args.device}', f'num_threads={args.threads}']
        program = [__file__, str(args.warmup), str(args.steps), *args.overrides, *place]
        done = subprocess.run(
            [sys.executable, *launcher, *program],
            env={**os.environ, 'PYTHONPATH': str(_ROOT), 'OMP_NUM_THREADS': str(args.threads)},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ValueError(f'{workers} workers failed:\n{done.stdout}{done.stderr}')
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Counter:
    """Counts the collectives of this process, and the bytes of their tensors."""

    def __init__(self) -> None:
        from torch import distributed

        self.calls = self.bytes = 0
        for name in _COLLECTIVES:
            setattr(distributed, name, self._counting(getattr(distributed, name)))

    def _counting(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if args and hasattr(args[0], 'nbytes'):
                self.bytes += args[0].nbytes
            return function(*args, **kwargs)

        return counted


def _worker(warmup: int, steps: int, overrides: list[str]) -> None:
    """Train on the first batch; worker 0 prints its figures."""
    from audiocodec import train
    from audiocodec.utils import distrib

    xp = train.main.get_xp(['benchmark_no_load=true', *overrides])
    if int(os.environ['RANK']) == 0:
        train.main.init_xp(xp)
    with xp.enter():
        solver = train.get_solver(xp.cfg)
        solver.model.train()
        wav = next(iter(solver.dataloaders['train']))[0]
        for _ in range(warmup):
            solver.run_step(wav)
        counter, times = _Counter(), []
        distrib.barrier()
        before = counter.calls
        for _ in range(steps):
            begin = time.perf_counter()
            metrics = solver.run_step(wav)
            float(next(iter(metrics.values())))  # waits for a GPU
            times.append(1000 * (time.perf_counter() - begin))
        if distrib.is_rank_zero():
            print(
                json.dumps(
                    {
                        'times': times,
                        'collectives': (counter.calls - before) / steps,
                        'bytes': counter.bytes / steps,
                    }
                )
            )
        solver.watch.finish()


if __name__ == '__main__':
    _worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
