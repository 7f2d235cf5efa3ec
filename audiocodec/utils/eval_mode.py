"""Context manager for eval mode, which restores the mode of every module."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put modules and all their submodules into eval mode inside the context.

    Afterwards every submodule has its previous mode: a layer frozen in eval mode stays in it, while
    `train()` of the whole would change it. The mode matters even without dropout: in training mode,
    spectral norm changes its buffers in each forward pass.

    Args:
        *modules: modules to put into eval mode.
    """
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in zip(parts, modes):
            part.training = training
