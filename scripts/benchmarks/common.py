"""Shared code of the benchmarks: timing, medians, memory, table and JSON line, comparison.

A subcommand of `scripts/benchmark.py` is a module of this package, imported on demand, with

    HELP: str                                       one line for `--help`
    DEFAULTS: dict[str, Any]                        defaults of shared options that differ
    add_arguments(parser: ArgumentParser) -> None   declare further options; the shared ones are
                                                    added by `add_shared_arguments`
    run(args: Namespace) -> dict[str, Any]          measure, and return the result

The result holds plain numbers, strings, lists and dicts. `benchmark.py` adds the options and
`machine()`, prints a table, and then the result as one line of JSON, the last line of the output.
These keys have the same meaning in all results:

    ms           {name: median milliseconds}: lower is better; `total` is the whole
    spread       {name: (third - first quartile) / median}: the uncertainty of the medians
    per_second   {name: rate}: higher is better
    peak_bytes   peak memory: lower is better

`--against COMMAND` compares the values that both sides have under `ms`, `per_second` and
`peak_bytes`.
"""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PEER_OPTIONS = ('--against', '--rounds')
Times = dict[str, list[float]]  # milliseconds, by name
_made: Callable[[], Any]  # in a process of `apart`
LONG_ENOUGH = 20  # milliseconds: launching and synchronizing are negligible in comparison


def add_shared_arguments(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """Declare the options that every subcommand has."""
    parser.add_argument(
        '--steps', type=int, default=defaults.get('steps', 5), help='timed repetitions'
    )
    parser.add_argument(
        '--warmup', type=int, default=defaults.get('warmup', 1), help='repetitions before those'
    )
    parser.add_argument(
        '--threads', type=int, default=defaults.get('threads', 2), help='CPU threads of PyTorch'
    )
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1')
    parser.add_argument(
        '--against',
        metavar='COMMAND',
        help="a peer's command, which prints a line of JSON with the "
        'same keys: alternate it with this benchmark and print how many times better this one is',
    )
    parser.add_argument('--rounds', type=int, default=3, help='runs of each side, with --against')


class Stopwatch:
    """Measures milliseconds by name; on a GPU, it synchronizes before and after.

    Args:
        device: device that does the work.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self.device = device
        self.times: Times = {}
        self._begins: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a block under a name."""
        self.start(name)
        yield
        self.stop(name)

    def start(self, name: str) -> None:
        """Start measuring; measurements of different names may be nested."""
        self.wait()
        self._begins[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        """Add the time since `start`."""
        self.wait()
        self.times.setdefault(name, []).append(
            (time.perf_counter() - self._begins.pop(name)) * 1000
        )

    def rounds(self, steps: int, warmup: int) -> Iterator[None]:
        """Iterate `warmup` + `steps` times; drop the times of the warm-up."""
        for step in range(warmup + steps):
            if step == warmup:
                self.times.clear()
            yield

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.startswith('cuda'):
            import torch

            torch.cuda.synchronize(self.device)


def in_turn(
    functions: Mapping[str, Callable[[], Any]], steps: int, warmup: int, device: str = 'cpu'
) -> Times:
    """Measure milliseconds of functions that are called one after the other in every round.

    Args:
        functions: functions by name.
        steps: timed rounds.
        warmup: rounds before those.
        device: device to synchronize after every call.
    """
    watch = Stopwatch(device)
    for _ in watch.rounds(steps, warmup):
        for name, function in functions.items():
            with watch.measure(name):
                function()
    return watch.times


@contextmanager
def apart(make: Callable[..., Callable[[], Any]], *args: Any) -> Iterator[Callable[[], None]]:
    """Provide the function that `make(*args)` returns, called in a separate process.

    So memory that one side frees is not reused by the other.

    Args:
        make: a function of an importable module.
        args: picklable arguments.

    Raises:
        Exception: errors of `make` and of each call.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as process:
        process.submit(_make, make, args).result()
        yield lambda: process.submit(_call).result()


def _make(make: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    global _made
    _made = make(*args)


def _call() -> None:
    _made()


def time_batches(
    batches: Iterable[Any], size: int, workers: int, steps: int, warmup: int
) -> dict[str, Any]:
    """Time `warmup + steps` batches as they arrive.

    Args:
        batches: a loader.
        size: segments per batch.
        workers: loading processes; 0: this process loads.
        steps: timed batches.
        warmup: batches before those.

    Returns:
        A result, see the module's docstring.
    """
    watch, source = Stopwatch(), iter(batches)
    for _ in watch.rounds(steps, warmup):
        with watch.measure('batch'):
            next(source)
    # The total, not the median: several processes deliver batches in bursts.
    seconds = sum(watch.times['batch']) / 1000
    rate = size * steps / seconds
    result: dict[str, Any] = summary(watch.times)
    result['ms']['total'] = round(1000 * seconds / steps, 3)
    return {
        **result,
        'peak_bytes': peak_bytes(),
        'per_second': {
            'segments': round(rate, 1),
            'segments_of_a_worker': round(rate / max(1, workers), 1),
        },
    }


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Return `ms` and `spread`, see the module's docstring."""
    return {
        'ms': {name: round(statistics.median(values), 3) for name, values in times.items()},
        'spread': {name: round(_spread(values), 3) for name, values in times.items()},
    }


def _spread(values: Sequence[float]) -> float:
    median = statistics.median(values)
    if len(values) < 2 or not median:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method='inclusive')
    return (third - first) / median


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median over the rounds of slow / fast."""
    return round(statistics.median(first / second for first, second in zip(slow, fast)), 3)


def peak_bytes(device: str = 'cpu') -> int:
    """Return the peak memory so far: allocated on the GPU, or resident in this process."""
    if device.startswith('cuda'):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == 'darwin' else 1024
    )


def resting_bytes(device: str = 'cpu') -> int:
    """Return the current memory of this process; outside Linux, the peak so far."""
    if device.startswith('cuda'):
        import torch

        return torch.cuda.memory_allocated(device)
    try:
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_bytes()


def machine(device: str = 'cpu') -> dict[str, Any]:
    """Return names, versions and load of this machine: on a busy one, medians mean little."""
    import torch

    from audiocodec.utils.cpus import usable_cores

    name = torch.cuda.get_device_name(device) if device.startswith('cuda') else _processor()
    return {
        'machine': name,
        'cores': usable_cores(),
        'load': round(os.getloadavg()[0], 2),
        'date': time.strftime('%Y-%m-%d %H:%M'),
        'versions': {'python': platform.python_version(), 'torch': torch.__version__},
    }


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as lines:
            return next(
                line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matrix_rate(device: str = 'cpu', dtype: str = 'float32') -> float:
    """Measure this machine's peak FLOPs per second in matrix products.

    On a CPU, convolutions are measured too, since PyTorch's library for matrix products favors
    processors of some makers.

    Args:
        device: device to measure.
        dtype: name of a PyTorch type, or `tf32`.
    """
    import torch

    kind = getattr(torch, 'float32' if dtype == 'tf32' else dtype)
    works = [_product, _convolution] if device == 'cpu' else [_product]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('high' if dtype == 'tf32' else before)
    try:
        with torch.no_grad():
            return max(_rate(functools.partial(work, device, kind), device) for work in works)
    finally:
        torch.set_float32_matmul_precision(before)


def _rate(work: Callable[[int], tuple[Callable[[], Any], int]], device: str) -> float:
    """Measure FLOPs per second, at a size that takes long enough: speeds differ thousandfold."""
    for size in (2**exponent for exponent in range(8, 15)):
        function, flops = work(size)
        if in_turn({'': function}, steps=1, warmup=1, device=device)[''][0] > LONG_ENOUGH:
            break
    return flops / (min(in_turn({'': function}, steps=10, warmup=0, device=device)['']) / 1000)


def _product(device: str, kind: 'torch.dtype', size: int) -> tuple[Callable[[], Any], int]:
    """Return a function that computes a matrix product, and its FLOPs."""
    import torch

    first = torch.randn(size, size, device=device).to(kind)
    return lambda: first @ first, 2 * size**3


def _convolution(device: str, kind: 'torch.dtype', size: int) -> tuple[Callable[[], Any], int]:
    """Return a function that convolves images, and its FLOPs."""
    import torch

    side = size // 64
    image = (
        torch.randn(4, 256, side, side, device=device)
        .to(kind)
        .contiguous(memory_format=torch.channels_last)
    )
    weight = (
        torch.randn(256, 256, 3, 3, device=device)
        .to(kind)
        .contiguous(memory_format=torch.channels_last)
    )
    return lambda: torch.nn.functional.conv2d(
        image, weight, padding=1
    ), 2 * 4 * side**2 * 256 * 256 * 9


def memory_rate(device: str = 'cpu', size: int = 2**28) -> float:
    """Measure the memory bandwidth, reads plus writes per second, in copies of `size` bytes."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = in_turn({'copy': lambda: target.copy_(source)}, steps=5, warmup=2, device=device)
    return 2 * size / (min(times['copy']) / 1000)


def print_table(title: str, rows: Sequence[Sequence[Any]], header: Sequence[str]) -> None:
    """Print aligned rows of text and numbers."""
    cells = [
        [f'{cell:,.2f}' if isinstance(cell, float) else str(cell) for cell in row]
        for row in [header, *rows]
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(title)
    for row in cells:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print('  ' + '  '.join([row[0].ljust(widths[0]), *rest]))


def print_result(result: dict[str, Any]) -> None:
    """Print the table of a result, and then the result as one line of JSON."""
    spreads = result.get('spread', {})
    rows = []
    for key, unit in (('ms', 'ms'), ('per_second', '/ s')):
        for name, value in result.get(key, {}).items():
            spread = f'{100 * spreads[name]:.0f} %' if name in spreads else ''
            rows.append([f'{name} ({unit})', float(value), spread])
    if 'peak_bytes' in result:
        rows.append(['peak memory (MiB)', result['peak_bytes'] / 2**20, ''])
    print_table(
        f'{result.get("benchmark", "")} on {result.get("machine", "")}',
        rows,
        ['', 'median', 'spread'],
    )
    print(json.dumps(result), flush=True)


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Return the comparable figures by dotted name; lower is better, so rates are inverted."""
    values = {f'ms.{name}': value for name, value in result.get('ms', {}).items()}
    for name, value in result.get('per_second', {}).items():
        if value:
            values[f'per_second.{name}'] = 1 / value
    if 'peak_bytes' in result:
        values['peak_bytes'] = result['peak_bytes']
    return values


def without_peer(argv: Sequence[str]) -> list[str]:
    """Return a command line without `--against` and `--rounds`, in both their forms."""
    kept, skip = [], False
    for argument in argv:
        if not skip and argument.split('=', 1)[0] not in PEER_OPTIONS:
            kept.append(argument)
        skip = not skip and argument in PEER_OPTIONS
    return kept


def compare(ours: Sequence[str], peer: str, rounds: int) -> dict[str, Any]:
    """Alternate two commands, each run in a new process, and compare their last lines.

    Args:
        ours: command and arguments.
        peer: command line, run without a shell.
        rounds: runs of each.

    Returns:
        Our last result, the peer's, and `ratio`: how many times better ours is in each figure, the
        median over the rounds. All rounds are in `ratios`.

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
        latest = sorted((name, values[-1]) for name, values in ratios.items())
        print(f'  round {turn + 1} of {rounds}: {latest}', file=sys.stderr, flush=True)
    if not ratios:
        raise ValueError(
            f'{peer}: its result has no figure in common with this benchmark, which has '
            f'{", ".join(sorted(mine))}'
        )
    middle = {name: round(statistics.median(values), 3) for name, values in sorted(ratios.items())}
    return {**result, 'peer': other, 'ratio': middle, 'ratios': ratios}


def _result_of(command: Sequence[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f'{shlex.join(command)}: {error.strerror}') from error
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except json.JSONDecodeError:
        result = None
    if not isinstance(result, dict):
        raise ValueError(
            f'{shlex.join(command)}: exit code {done.returncode}; expected 0 and a line of JSON at '
            f'the end of its output. It ended with: {(done.stderr or done.stdout).strip()[-500:]}'
        )
    return result


def print_comparison(result: dict[str, Any]) -> None:
    """Print the table of ratios, and the result as one line of JSON."""
    rows = [
        [name, value, ' '.join(f'{one:.2f}' for one in result['ratios'][name])]
        for name, value in result['ratio'].items()
    ]
    print_table(
        f'{result.get("benchmark", "")}: times better than the peer, on '
        f'{result.get("machine", "")}',
        rows,
        ['', 'median', 'rounds'],
    )
    print(json.dumps(result), flush=True)
