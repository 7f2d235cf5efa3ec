"""Convolutions hand-written for training on a CPU, and its allocator.

They compute what PyTorch's own do, with the same gradients, faster. `use(False)`, or
`cpu_kernels=false` for a run, switches to PyTorch's.
"""

_is_enabled = True


def is_enabled() -> bool:
    """True if the kernels of this folder are used where they apply."""
    return _is_enabled


def use(enabled: bool) -> None:
    """Switch the kernels of this folder on or off, for this process."""
    global _is_enabled
    _is_enabled = enabled
