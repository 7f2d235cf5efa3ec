"""Startup time: imports for inference, and from the command line to the first training update."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import in_turn, summary

HELP = 'imports, and from the command line to the first training update'
DEFAULTS: dict[str, Any] = {}
_ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the training run."""
    parser.add_argument('--train', type=int, default=1, choices=(0, 1), help='0: imports only')
    parser.add_argument(
        'overrides', nargs='*', default=['solver=compression/debug'], help='of the training run'
    )


def first_update(overrides: list[str], environment: dict[str, str]) -> None:
    """Run training until it reports its first update.

    Raises:
        ValueError: the run ended before; the message has its output.
    """
    each_update = ['logging.log_updates=100000', 'logging.log_seconds=0']  # a line in the log
    command = [sys.executable, '-m', 'dora', '-P', 'audiocodec', 'run', '--clear']
    command += [*overrides, *each_update]
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if 'Train |' in line:
                return
        raise ValueError(f'{" ".join(command)} ended without an update:\n{"".join(lines)}')
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time new processes, alternating; the first one warms the disk cache and does not count."""
    environment = {**os.environ, 'OMP_NUM_THREADS': str(args.threads)}

    def imports(module: str) -> None:
        subprocess.run(
            [sys.executable, '-c', f'import {module}'], check=True, env=environment, cwd=_ROOT
        )

    functions = {
        'import_torch': lambda: imports('torch'),
        'import_models': lambda: imports('audiocodec.models'),
    }
    with tempfile.TemporaryDirectory() as folder:
        environment['AUDIOCODEC_DORA_DIR'] = folder
        overrides = [*args.overrides, f'device={args.device}']
        if args.train:
            functions['first_update'] = lambda: first_update(overrides, environment)
        times = in_turn(functions, args.steps, args.warmup)
    return dict(summary(times))
