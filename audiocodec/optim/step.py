"""Optimizer steps that can be skipped without synchronizing with the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FLAG_IGNORED = {'mps'}  # devices; PyTorch 2.5 to 2.14


def step_if(optimizer: torch.optim.Optimizer, ok: torch.Tensor) -> None:
    """Call `optimizer.step()` if `ok` is true.

    Otherwise parameters, moments and step counts are not changed. PyTorch's fused optimizers decide
    this on the device, by the flag that `torch.amp.GradScaler` sets. For others, and on Apple's
    GPUs, where fused optimizers ignore the flag, the host reads `ok` and therefore waits for the
    device.

    Args:
        optimizer: optimizer whose parameters have their gradients.
        ok: 0-d, boolean.
    """
    heeds_flag = getattr(optimizer, '_step_supports_amp_scaling', False)
    if heeds_flag and ok.device.type not in _FLAG_IGNORED:
        # The attributes that GradScaler sets, which the type of optimizers does not declare.
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = (~ok).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif bool(ok):
        optimizer.step()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Create optimizers without the import of PyTorch's compiler, which takes a second.

    `Optimizer.add_param_group` imports it, in order not to be compiled. See
    findings/torch_first_optimizer_imports_dynamo.sh. An optimizer of PyTorch does so again when it
    takes its first step.
    """
    kind = torch.optim.Optimizer
    marked = kind.add_param_group
    kind.add_param_group = getattr(marked, '__wrapped__', marked)  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.add_param_group = marked  # type: ignore[method-assign]
