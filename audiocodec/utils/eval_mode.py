"""Eval mode for a while, after which every module is in the mode it was in."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Within it, modules and all their parts are in eval mode.

    Afterwards each part has its own mode back: a layer that was frozen in eval mode stays there,
    which `train()` of the whole would not know. In training mode, a layer with spectral norm
    changes its buffers in each forward pass.

    Args:
        *modules: to put into eval mode.
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
