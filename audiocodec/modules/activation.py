"""Activations by the name of their class in `torch.nn`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class _ELU(torch.autograd.Function):
    """ELU that keeps its result for the gradient: the layer behind it keeps that too, the argument is free to go."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: float) -> torch.Tensor:
        y = F.elu(x, alpha)
        ctx.save_for_backward(y)
        ctx.alpha = alpha
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        y, = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad, ctx.alpha, 1.0, 1.0, True, y), None


class ELU(nn.ELU):
    """`torch.nn.ELU`, which keeps one tensor less from its forward to its backward pass."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [...] to [...]."""
        if self.inplace or self.alpha < 0 or not input.requires_grad or torch.compiler.is_compiling():
            return super().forward(input)
        return _ELU.apply(input, self.alpha)

    def overwrite(self, x: torch.Tensor) -> torch.Tensor:
        """Map [...] to [...], in place where its gradient allows it."""
        return F.elu(x, self.alpha, inplace=True) if self.alpha >= 0 else self(x)


def make_activation(name: str, params: Mapping[str, Any] | None = None) -> nn.Module:
    """Make the activation `torch.nn.<name>(**params)`, ELU in a form that takes less memory.

    Raises:
        ValueError: `torch.nn` has no such module, or it does not take these parameters.
    """
    cls = getattr(nn, name, None) if isinstance(name, str) else None
    if cls is nn.ELU:
        cls = ELU
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f'activation={name!r} is not a module of torch.nn: use for instance ELU, LeakyReLU or Tanh.')
    try:
        made = cls(**(params or {}))
        with torch.no_grad():  # many take any value and stumble over it later
            made(torch.zeros(1, 2, 1))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'parameters {dict(params or {})} do not fit the activation {name}: {error}') from error
    return made
