"""CPU cores that this process may use, by affinity and control group quota."""

import math
import os
from collections.abc import Callable
from pathlib import Path

_GROUPS = Path('/proc/self/cgroup')
_MOUNT = Path('/sys/fs/cgroup')


def usable_cores() -> int:
    """Return the number of cores that this process may keep busy; at least 1."""
    return max(1, int(min(len(affinity()), quota())))


def affinity() -> list[int]:
    """Return the numbers of the cores that this process may run on, ascending."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def quota() -> float:
    """Return the CPU quota of control groups (v1 and v2) in cores; infinity without a limit."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    lowest = math.inf
    for line in lines:
        _, controllers, group = line.split(':', 2)
        if not controllers:
            lowest = min(lowest, _lowest(_MOUNT, group, _limit_v2))
        elif 'cpu' in controllers.split(','):
            lowest = min(lowest, _lowest(_MOUNT / 'cpu', group, _limit_v1))
    return lowest


def _lowest(mount: Path, group: str, limit: Callable[[Path], float]) -> float:
    """Return the lowest limit of a group and its parents; a container may show only the mount."""
    folder = mount
    lowest = limit(mount)
    for name in Path(group).parts[1:]:
        folder /= name
        lowest = min(lowest, limit(folder))
    return lowest


def _limit_v2(folder: Path) -> float:
    try:
        granted, period = (folder / 'cpu.max').read_text().split()
        return math.inf if granted == 'max' else int(granted) / int(period)
    except (OSError, ValueError):
        return math.inf


def _limit_v1(folder: Path) -> float:
    try:
        granted = int((folder / 'cpu.cfs_quota_us').read_text())
        if granted < 0:
            return math.inf
        return granted / int((folder / 'cpu.cfs_period_us').read_text())
    except (OSError, ValueError):
        return math.inf
