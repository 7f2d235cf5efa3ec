"""What every benchmark shares: timing, medians, peak memory, the table and the JSON line, and a peer run in turn.

A sub-command of `scripts/benchmark.py` is a module of this package, imported only when it is asked for, with

    HELP: str                                                        one line for `--help`
    add_arguments(parser: argparse.ArgumentParser) -> None           its own options; `add_shared_arguments` is called
                                                                     for it, and gives --threads, --device, --against
    run(args: argparse.Namespace) -> dict[str, Any]                  measures, and returns the result

The result holds plain numbers, strings, lists and dicts. `benchmark.py` adds `machine()` to it, prints the table and
then the result as one line of JSON, the last line of the output. These keys have a meaning everywhere:

    ms           {name: median milliseconds}: smaller is better
    per_second   {name: median rate}: greater is better
    peak_bytes   peak memory: smaller is better
    spread       {name: (max - min) / median} of the same names: how far to trust the medians

`--against COMMAND` compares what both sides have under the first three.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PEER_OPTIONS = ('--against', '--rounds')


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every sub-command has."""
    parser.add_argument('--threads', type=int, default=2, help='CPU threads of PyTorch')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1')
    parser.add_argument('--against', metavar='COMMAND', help="a peer's command, which prints a line of JSON with the "
                        'same keys: run it in turn with this benchmark and print how many times better this one is')
    parser.add_argument('--rounds', type=int, default=3, help='turns of each side, with --against')


class Stopwatch:
    """Milliseconds by name; on a GPU, each time waits for the work that was sent before.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self.device = device
        self.times: dict[str, list[float]] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a block under a name."""
        self.wait()
        begin = time.perf_counter()
        yield
        self.wait()
        self.times.setdefault(name, []).append((time.perf_counter() - begin) * 1000)

    def wait(self) -> None:
        """Until the device has done all it was sent."""
        if self.device.startswith('cuda'):
            import torch
            torch.cuda.synchronize(self.device)

    def result(self) -> dict[str, dict[str, float]]:
        """`ms` and `spread`, see the module's docstring."""
        return {'ms': {name: round(statistics.median(times), 3) for name, times in self.times.items()},
                'spread': {name: round(spread(times), 3) for name, times in self.times.items()}}


def spread(values: Sequence[float]) -> float:
    """(max - min) / median."""
    median = statistics.median(values)
    return (max(values) - min(values)) / median if median else 0.


def repeat(call: Callable[[], Any], steps: int, warmup: int = 1, device: str = 'cpu') -> list[float]:
    """Milliseconds of each of `steps` calls, after `warmup` others."""
    watch = Stopwatch(device)
    for _ in range(warmup):
        call()
    for _ in range(steps):
        with watch.measure('call'):
            call()
    return watch.times['call']


def peak_bytes(device: str = 'cpu') -> int:
    """Peak memory so far: allocated on a GPU, else resident in this process (interpreter and libraries included)."""
    if device.startswith('cuda'):
        import torch
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(device: str = 'cpu') -> dict[str, Any]:
    """Names and versions of what was measured on, and how busy it was: a median of a busy machine is worth little."""
    import torch
    name = torch.cuda.get_device_name(device) if device.startswith('cuda') else _processor()
    return {'machine': name, 'cores': os.cpu_count(), 'load': round(os.getloadavg()[0], 2),
            'date': time.strftime('%Y-%m-%d %H:%M'),
            'versions': {'python': platform.python_version(), 'torch': torch.__version__}}


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as lines:
            return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matrix_rate(device: str = 'cpu', dtype: str = 'float32', size: int = 2048) -> float:
    """FLOPs per second of this machine's matrix product of [size, size] matrices: the best of ten."""
    import torch
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    times = repeat(lambda: a @ a, steps=10, warmup=2, device=device)
    return 2 * size ** 3 / (min(times) / 1000)


def print_table(title: str, rows: Sequence[Sequence[Any]], header: Sequence[str]) -> None:
    """Rows of text and numbers, aligned."""
    cells = [[f'{cell:,.2f}' if isinstance(cell, float) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(title)
    for row in cells:
        first, rest = row[0].ljust(widths[0]), [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print('  ' + '  '.join([first, *rest]))


def print_result(result: dict[str, Any]) -> None:
    """The table of a result, and then the result as one line of JSON."""
    spreads = result.get('spread', {})
    rows = [[name, value, f'{100 * spreads[name]:.0f} %' if name in spreads else '']
            for key in ('ms', 'per_second') for name, value in result.get(key, {}).items()]
    print_table(f"{result.get('benchmark', '')} on {result.get('machine', '')}", rows, ['', 'median', 'spread'])
    if 'peak_bytes' in result:
        print(f"  peak memory {result['peak_bytes'] / 2 ** 20:,.0f} MiB")
    print(json.dumps(result), flush=True)


def figures(result: dict[str, Any]) -> dict[str, float]:
    """What can be compared, by dotted name, such that smaller is better: a rate becomes its inverse."""
    values = {f'ms.{name}': value for name, value in result.get('ms', {}).items()}
    values |= {f'per_second.{name}': 1 / value for name, value in result.get('per_second', {}).items() if value}
    return values | ({'peak_bytes': result['peak_bytes']} if 'peak_bytes' in result else {})


def without_peer(argv: Sequence[str]) -> list[str]:
    """A command line without `--against` and `--rounds`, in both their forms."""
    kept, skip = [], False
    for argument in argv:
        if not skip and argument.split('=', 1)[0] not in PEER_OPTIONS:
            kept.append(argument)
        skip = not skip and argument in PEER_OPTIONS
    return kept


def compare(ours: Sequence[str], peer: str, rounds: int) -> dict[str, Any]:
    """Run two commands in turn, each in processes of its own, and compare their last lines.

    Args:
        ours: command and arguments.
        peer: a command line; no shell reads it.
        rounds: runs of each.

    Returns:
        Our last result, the peer's, and `ratio`: by figure, the median over the rounds of how many times better ours
        is, with all rounds in `ratios`.

    Raises:
        ValueError: a command fails or prints no result, or the two have no figure in common.
    """
    ratios: dict[str, list[float]] = {}
    for turn in range(rounds):
        result, other = _result_of(ours), _result_of(shlex.split(peer))
        mine, theirs = figures(result), figures(other)
        for name in mine.keys() & theirs.keys():
            if mine[name] > 0:
                ratios.setdefault(name, []).append(round(theirs[name] / mine[name], 4))
        print(f'  round {turn + 1} of {rounds}: {sorted((name, values[-1]) for name, values in ratios.items())}',
              file=sys.stderr, flush=True)
    if not ratios:
        raise ValueError(f'{peer}: its result has no figure in common with this benchmark, which has '
                         f'{", ".join(sorted(mine))}.')
    ratio = {name: round(statistics.median(values), 3) for name, values in sorted(ratios.items())}
    return {**result, 'peer': other, 'ratio': ratio, 'ratios': ratios}


def _result_of(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except json.JSONDecodeError:
        result = None
    if not isinstance(result, dict):
        raise ValueError(f'{shlex.join(command)}: exit code {done.returncode}; expected 0 and a line of JSON at the '
                         f'end of its output. It ended with: {(done.stderr or done.stdout).strip()[-500:]}')
    return result


def print_comparison(result: dict[str, Any]) -> None:
    """The table of ratios, and the result as one line of JSON."""
    rows = [[name, value, ' '.join(f'{one:.2f}' for one in result['ratios'][name])]
            for name, value in result['ratio'].items()]
    print_table(f"{result.get('benchmark', '')}: times better than the peer, on {result.get('machine', '')}", rows,
                ['', 'median', 'rounds'])
    print(json.dumps(result), flush=True)
