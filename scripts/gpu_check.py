#!/usr/bin/env python
"""All that a GPU has to say, in eight minutes: tests, updates beside a peer's, a profile, and the
two floors.

    python scripts/gpu_check.py out/ --peer 'python peer_audiocraft_step.py'

runs `pytest -m gpu`, then `benchmark.py step` for three recipes at batches of 64 and 16, in float32
in turn with the peer, and in bfloat16, compiled; and a profile. What matters most comes first; what
no time is left for is named. Each result is a line of `out/results.jsonl`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ('base_24khz', 'musicgen_32khz', 'audiogen_16khz')
BATCHES = (64, 16)


class Job(NamedTuple):
    """Something to run.

    Attributes:
        name: of its line in the results.
        command: and arguments.
        seconds: that it may take at most.
        is_benchmark: whether its last line is a result of `benchmark.py`.
    """

    name: str
    command: list[str]
    seconds: float
    is_benchmark: bool = True


def plan(args: argparse.Namespace) -> list[Job]:
    """The jobs, the most important ones first."""
    tests = Job(
        'tests',
        [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', 'tests'],
        120,
        is_benchmark=False,
    )
    first, *others = [(recipe, batch) for batch in args.batches for recipe in args.recipes]
    profile = _step(
        args,
        *first,
        '--autocast',
        'bfloat16',
        '--profile',
        str(args.out / 'profile.txt'),
        name='profile',
    )
    jobs = [tests, *_measurements(args, *first), profile]
    for recipe, batch in others:
        jobs += _measurements(args, recipe, batch)
    return jobs


def _measurements(args: argparse.Namespace, recipe: str, batch: int) -> list[Job]:
    against = []
    if args.peer:
        peer = (
            f'{args.peer} --recipe {recipe} --batch {batch} --steps {args.steps} '
            f'--warmup 3 --device {args.device}'
        )
        against = ['--against', peer, '--rounds', '1']
    return [
        _step(args, recipe, batch, *against, name='float32'),
        _step(args, recipe, batch, '--autocast', 'bfloat16', name='bfloat16'),
        _step(
            args,
            recipe,
            batch,
            '--autocast',
            'bfloat16',
            '--compile',
            'true',
            name='bfloat16 compiled',
        ),
    ]


def _step(args: argparse.Namespace, recipe: str, batch: int, *options: str, name: str) -> Job:
    command = [
        sys.executable,
        str(ROOT / 'scripts/benchmark.py'),
        'step',
        '--recipe',
        recipe,
        '--batch',
        str(batch),
        '--steps',
        str(args.steps),
        '--warmup',
        '3',
        '--device',
        args.device,
        *options,
    ]
    if args.tiny:
        command += ['--seconds', '0.25', '--threads', '1']
    return Job(f'{recipe} x {batch}, {name}', command, 180)


def execute(job: Job, seconds: float) -> dict[str, Any]:
    """Run a job for at most so many seconds; `failed` in the result says what went wrong."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            job.command, cwd=ROOT, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {'job': job.name, 'failed': f'it took longer than {seconds:.0f} s'}
    result: dict[str, Any] = {'job': job.name, 'command': shlex.join(job.command)}
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        result['failed'] = (
            f'exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}'
        )
    elif job.is_benchmark:
        result |= json.loads(lines[-1])
    else:
        result['output'] = lines[-1] if lines else ''
    return {**result, 'seconds': round(time.monotonic() - begin, 1)}


def line(result: dict[str, Any], peers: dict[str, float]) -> str:
    """A result in a line of text.

    Args:
        result: see `execute`.
        peers: the peer's milliseconds by recipe and batch; a result that has them adds to it.
    """
    if 'failed' in result:
        return f'{result["job"]}: FAILED, {result["failed"].splitlines()[-1]}'
    if 'ms' not in result:
        return f'{result["job"]}: {result["output"]}'
    case = result['job'].split(',')[0]
    total, floors = result['ms']['total'], result['floor_ms']
    if 'peer' in result:
        peers[case] = result['peer']['ms']['total']
    text = (
        f'{result["job"]}: {total:.1f} ms, {result["peak_bytes"] / 2**30:.2f} GiB; floors: FLOPs '
        f'{floors["flops"]:.1f} ms, bytes {floors["bytes"]:.1f} ms'
    )
    return text + (f', peer / ours {peers[case] / total:.2f}' if case in peers else '')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when something failed or lacked time."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path, help='folder of the results')
    parser.add_argument(
        '--peer', help='command of a peer of `benchmark.py step`, without its options'
    )
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--minutes', type=float, default=8.0, help='for all of it')
    parser.add_argument('--steps', type=int, default=10, help='updates that are timed')
    parser.add_argument('--recipes', nargs='+', default=RECIPES)
    parser.add_argument('--batches', nargs='+', type=int, default=BATCHES)
    parser.add_argument(
        '--tiny',
        action='store_true',
        help='with --device cpu --recipes debug --batches 2: a dry run',
    )
    parser.add_argument('--only', metavar='TEXT', help='only jobs that have this in their name')
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    failed, peers = False, dict[str, float]()
    with open(args.out / 'results.jsonl', 'w') as results:
        for job in plan(args):
            if args.only and args.only not in job.name:
                continue
            left = end - time.monotonic()
            result = (
                {'job': job.name, 'failed': 'no time was left'}
                if left < 5
                else execute(job, min(left, job.seconds))
            )
            failed |= 'failed' in result
            print(json.dumps(result), file=results, flush=True)
            print(line(result, peers), flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
