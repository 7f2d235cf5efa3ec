"""What the benchmarks of this folder share: timing several functions in turn, and the memory that one takes."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def in_turn(functions: Mapping[str, Callable[[], Any]], steps: int, warmup: int,
            device: str = 'cpu') -> dict[str, list[float]]:
    """Milliseconds of each call, the functions called one after the other in every round.

    Args:
        functions: by name.
        steps: rounds that count.
        warmup: rounds before them.
        device: waited for after every call.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for step in range(warmup + steps):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if device.startswith('cuda'):
                torch.cuda.synchronize()
            if step >= warmup:
                times[name].append((time.perf_counter() - begin) * 1000)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each list."""
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def spreads(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Difference between the quartiles of each list, over its median; 0 of a single value."""
    spread = {}
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (0.0, 0.0, 0.0)
        spread[name] = round((high - low) / statistics.median(values), 3)
    return spread


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios of the rounds."""
    return round(statistics.median(first / second for first, second in zip(slow, fast)), 3)


def peak_bytes(device: str = 'cpu') -> int:
    """The most memory that this process has held: of the GPU, or resident on the CPU."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def resting_bytes(device: str = 'cpu') -> int:
    """The memory that this process holds now; the peak so far where the system does not say (outside Linux)."""
    if device.startswith('cuda'):
        return torch.cuda.memory_allocated()
    try:
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_bytes()
