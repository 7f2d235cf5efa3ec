"""Base of the optimizers here: closures, skipped steps and scaled gradients."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.adam import adam

Flags = dict[str, torch.Tensor | None]


class ScaledOptimizer(torch.optim.Optimizer):
    """Optimizer that heeds the flags of `step_if` and `torch.amp.GradScaler`, on the device.

    A subclass passes both to `adam_step`, or heeds them itself: with a true `found_inf`, parameters
    and averages stay as they are, and gradients are divided by `grad_scale`.
    """

    _step_supports_amp_scaling = True  # the host reads neither flag

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        flags = {name: getattr(self, name, None) for name in ('found_inf', 'grad_scale')}
        for group in self.param_groups:
            self.update([p for p in group['params'] if p.grad is not None], group, flags)
        return loss

    @abstractmethod
    def update(self, parameters: list[torch.Tensor], group: dict[str, Any], flags: Flags) -> None:
        """Update parameters of a group, all of which have a gradient."""


def adam_step(
    parameters: list[torch.Tensor],
    means: list[torch.Tensor],
    squares: list[torch.Tensor],
    steps: Sequence[torch.Tensor],
    group: dict[str, Any],
    flags: Flags,
    weight_decay: float = 0.0,
) -> None:
    """Take a step of Adam by PyTorch's fused kernel, with `lr`, `betas`, `eps` of a group."""
    first, second = group['betas']
    adam(
        parameters,
        [p.grad for p in parameters if p.grad is not None],
        means,
        squares,
        [],
        list(steps),
        fused=True,
        grad_scale=flags['grad_scale'],
        found_inf=flags['found_inf'],
        amsgrad=False,
        beta1=first,
        beta2=second,
        lr=group['lr'],
        weight_decay=weight_decay,
        eps=group['eps'],
        maximize=False,
    )
