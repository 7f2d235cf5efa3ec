#!/usr/bin/env python
"""Check and benchmark a GPU in eight minutes: tests, updates against a peer's, and a profile.

    python scripts/gpu_check.py out/ --peer 'python scripts/peer_audiocraft.py step'

runs `pytest -m gpu`, then `benchmark.py step` for three recipes at batch sizes 64 and 16: in
float32 alternating with the peer, in bfloat16, and in bfloat16 compiled; and a profile. The most
important jobs run first; jobs that no time is left for are listed. Each result is a line of
`out/results.jsonl`.
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
    """A command to run.

    Attributes:
        name: name in the results.
        command: command and arguments.
        seconds: time limit.
        is_benchmark: whether the last line of its output is a result of `benchmark.py`.
    """

    name: str
    command: list[str]
    seconds: float
    is_benchmark: bool = True


def plan(args: argparse.Namespace) -> list[Job]:
    """Return the jobs, the most important ones first."""
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
    """Run a job for at most `seconds`; if it fails, the result has the reason as `failed`."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            job.command, cwd=ROOT, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {'job': job.name, 'failed': f'took longer than {seconds:.0f} s'}
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
    """Format a result as a line of text.

    Args:
        result: see `execute`.
        peers: the peer's milliseconds by recipe and batch size; results with a peer are added.
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
    """Run the command line; return exit code 1 if a job failed or no time was left for it."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path, help='folder of the results')
    parser.add_argument(
        '--peer', help='command of a peer of `benchmark.py step`, without its options'
    )
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--minutes', type=float, default=8.0, help='time for all jobs')
    parser.add_argument('--steps', type=int, default=10, help='timed updates')
    parser.add_argument('--recipes', nargs='+', default=RECIPES)
    parser.add_argument('--batches', nargs='+', type=int, default=BATCHES)
    parser.add_argument(
        '--tiny',
        action='store_true',
        help='with --device cpu --recipes debug --batches 2: a dry run',
    )
    parser.add_argument('--only', metavar='TEXT', help='only jobs whose name contains this')
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    failed, peers = False, dict[str, float]()
    with open(args.out / 'results.jsonl', 'w') as results:
        for job in plan(args):
            if args.only and args.only not in job.name:
                continue
            left = end - time.monotonic()
            if left < 5:
                result = {'job': job.name, 'failed': 'no time left'}
            else:
                result = execute(job, min(left, job.seconds))
            failed |= 'failed' in result
            print(json.dumps(result), file=results, flush=True)
            print(line(result, peers), flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
