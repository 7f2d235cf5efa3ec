"""Updates on batches that do not fit in memory: parts of a model run on a few items at a time.

Modules that treat the items of a batch independently run on one micro-batch after the other. Their
outputs are concatenated, so that everything else sees the whole batch: a quantizer, losses, a
balancer. In the backward pass, each micro-batch is computed again (Chen et al., arXiv 1604.06174),
so that only the activations of one are in memory.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_Call = Callable[[torch.Tensor], torch.Tensor]


def check_items_are_independent(module: nn.Module) -> None:
    """Check that a module computes the same for an item whatever else is in the batch.

    Raises:
        ValueError: it has batch norms, whose statistics are those of the batch.
    """
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm):
            raise ValueError(
                f'{type(module).__name__}.{name} is a {type(part).__name__}, whose statistics '
                'would be those of the micro-batch instead of the batch'
            )


def in_micro_batches(module: nn.Module, number: int) -> None:
    """Run a module on parts of its batch from now on, in place; the state dict stays the same.

    Like a compiled module (`nn.Module.compile`, which must come first), a copy or a pickled module
    is plain again.

    Args:
        module: maps [B, ...] to [B, ...], each item independently of the others.
        number: micro-batches per batch, of equal size if B is a multiple.

    Raises:
        ValueError: the module has batch norms.
    """
    check_items_are_independent(module)
    # The attribute that `nn.Module.compile` sets: the only one that copies leave out.
    plain: _Call = module._compiled_call_impl or module._call_impl
    module._compiled_call_impl = partial(_run, module, plain, number)


def _run(module: nn.Module, plain: _Call, number: int, x: torch.Tensor) -> torch.Tensor:
    """Compute `plain(x)`, the call of a module, in micro-batches."""
    outputs = []
    for part, _ in zip(x.chunk(number), same_state(module)):
        if torch.is_grad_enabled():
            outputs.append(_recomputed(module, plain, part))
        else:
            outputs.append(plain(part))
    return torch.cat(outputs)


def _recomputed(module: nn.Module, plain: _Call, x: torch.Tensor) -> torch.Tensor:
    """Compute `plain(x)`; the backward pass does so again, with autocast as now."""
    before = [buffer.clone() for buffer in _changing_buffers(module)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return _state(module, None), _state(module, before)

    y: Any = checkpoint(plain, x, use_reentrant=False, context_fn=contexts)
    assert isinstance(y, torch.Tensor), (type(module), type(y))
    assert len(y) == len(x), (type(module), y.shape, x.shape)
    return y


def same_state(module: nn.Module) -> Iterator[None]:
    """Yield without end; at each step, parametrizations are in the state of the first.

    A spectral norm takes a step of its power iteration in each call of its module. From the same
    state, the calls for all micro-batches compute the same weights, and leave the state that one
    call for the whole batch leaves.
    """
    buffers = _changing_buffers(module)
    before = [buffer.clone() for buffer in buffers]
    yield
    while True:
        _copy(before, buffers)
        yield


@contextmanager
def _state(module: nn.Module, state: list[torch.Tensor] | None) -> Iterator[None]:
    """Run with the buffers of parametrizations in a given state, then restore theirs."""
    buffers = _changing_buffers(module) if state else []
    after = [buffer.clone() for buffer in buffers]
    _copy(state or [], buffers)
    try:
        yield
    finally:
        _copy(after, buffers)


def _changing_buffers(module: nn.Module) -> list[torch.Tensor]:
    """Return the buffers of parametrizations, such as the singular vectors of a spectral norm."""
    return [
        buffer for name, buffer in module.named_buffers() if 'parametrizations' in name.split('.')
    ]


def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    if targets:
        with torch.no_grad():
            torch._foreach_copy_(targets, sources)
