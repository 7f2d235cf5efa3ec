"""Steps of optimizers that leave out an update without asking the device."""

import torch


def step_if(optimizer: torch.optim.Optimizer, ok: torch.Tensor) -> None:
    """`optimizer.step()`, unless `ok` is false: then parameters, moments and step counts stay as
    they are.

    Fused optimizers of PyTorch decide it on the device, by the flag that `torch.amp.GradScaler`
    hands them; for others the host reads `ok`, and so waits for the device.

    Args:
        optimizer: its gradients are ready.
        ok: 0-d, boolean.
    """
    if getattr(optimizer, '_step_supports_amp_scaling', False):
        flagged = optimizer  # of these two attributes PyTorch's own type knows nothing
        flagged.grad_scale, flagged.found_inf = None, (~ok).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del flagged.grad_scale, flagged.found_inf  # type: ignore[attr-defined]
    elif bool(ok):
        optimizer.step()
