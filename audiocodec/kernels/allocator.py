"""Memory of the CPU, kept by the process from one update to the next."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have freed memory used again, instead of going back to the system.

    By default, the C library asks the system for every large tensor and gives it back: the system
    clears each page of it, at the first touch, in every update. That is a tenth of the time of an
    update on a CPU, and up to a third of a convolution's. The process stays at its peak, which is
    higher, by the gaps between tensors: a tenth or so.

    Returns:
        Whether it was done: only where the C library is glibc (Linux).
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
