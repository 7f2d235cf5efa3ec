"""Time to import what inference needs, and from the command line to the first update of a training run."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_turn, medians, spreads

HELP = 'imports, and from the command line to the first training update'
_ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often, and of what."""
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--warmup', type=int, default=1)
    parser.add_argument('--overrides', nargs='*', default=['solver=compression/debug'], help='of the training run')
    parser.add_argument('--train', type=int, default=1, choices=(0, 1), help='0: imports only')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default='cpu')


def first_update(overrides: list[str], environment: dict[str, str]) -> None:
    """Run training until it reports its first update.

    Raises:
        RuntimeError: it ended before; holds what it printed.
    """
    command = [sys.executable, '-m', 'dora', '-P', 'audiocodec', 'run', '--clear', *overrides]
    process = subprocess.Popen(command, cwd=_ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if 'Train |' in line:
                return
        raise RuntimeError(f'{" ".join(command)} ended without an update:\n{"".join(lines)}')
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time fresh processes, in turn."""
    environment = {**os.environ, 'OMP_NUM_THREADS': str(args.threads)}

    def imports(module: str) -> None:
        subprocess.run([sys.executable, '-c', f'import {module}'], check=True, env=environment, cwd=_ROOT)

    with tempfile.TemporaryDirectory() as folder:
        environment['AUDIOCODEC_DORA_DIR'] = folder
        # a line for each update
        overrides = [*args.overrides, f'device={args.device}', 'logging.log_updates=100000']
        functions = {'import_torch': lambda: imports('torch'), 'import_models': lambda: imports('audiocodec.models')}
        if args.train:
            functions['first_update'] = lambda: first_update(overrides, environment)
        begin = time.perf_counter()
        times = in_turn(functions, args.steps, args.warmup)
    result = medians(times)
    return {'ms': {'total': round((time.perf_counter() - begin) * 1000, 1), **result}, 'spread': spreads(times)}
