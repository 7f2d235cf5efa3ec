"""Activations by the name of their class."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.utils import config


class _ELU(torch.autograd.Function):
    """ELU that keeps its result for the gradient: the layer behind it keeps that too, the argument
    is free to go.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: float) -> torch.Tensor:
        y = F.elu(x, alpha)
        ctx.save_for_backward(y)
        ctx.alpha = alpha
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad, ctx.alpha, 1.0, 1.0, True, y), None


class ELU(nn.ELU):
    """`torch.nn.ELU`, which keeps one tensor less from its forward to its backward pass."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [...] to [...]."""
        if (
            self.inplace
            or self.alpha < 0
            or not input.requires_grad
            or torch.compiler.is_compiling()
        ):
            return super().forward(input)
        return _ELU.apply(input, self.alpha)

    def overwrite(self, x: torch.Tensor) -> torch.Tensor:
        """Map [...] to [...], in place where its gradient allows it."""
        return F.elu(x, self.alpha, inplace=True) if self.alpha >= 0 else self(x)


def activation_class(name: str) -> type[nn.Module]:
    """Finds the class of an activation.

    Args:
        name: of a class in `torch.nn`, such as LeakyReLU, or the dotted name of any other, such as
            `my_codec.Snake`.

    Raises:
        ValueError: there is no such class, or it may not be named (see
            `utils.config.allow_targets`).
    """
    if isinstance(name, str) and '.' in name:
        cls = config.locate(name)
    else:
        cls = getattr(nn, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(
            f'activation={name!r} is not a module of torch.nn: use for instance ELU, LeakyReLU or '
            'Tanh, '
            'or the dotted name of a class of your own.'
        )
    return ELU if cls is nn.ELU else cls


def make_activation(
    name: str, params: Mapping[str, Any] | None = None, channels: int | None = None
) -> nn.Module:
    """Makes an activation, ELU in a form that takes less memory.

    Args:
        name: see `activation_class`.
        params: arguments of the class.
        channels: of the signal, for a class that takes an argument of that name, with parameters
            for each channel.

    Returns:
        A module that maps [B, channels, T] to the same shape.

    Raises:
        ValueError: there is no such class, or it does not take these parameters.
    """
    cls, arguments = activation_class(name), dict(params or {})
    if channels is not None and 'channels' in inspect.signature(cls).parameters:
        arguments.setdefault('channels', channels)
    try:
        made = cls(**arguments)
        example = torch.zeros(1, channels or 2, 1)
        with torch.no_grad():  # many take any value and fail over it later
            shape = made(example).shape
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f'parameters {arguments} do not fit the activation {name}: {error}'
        ) from error
    if shape != example.shape:
        raise ValueError(
            f'activation={name!r} makes {list(shape)} of a signal of shape {list(example.shape)}: '
            'it must '
            'keep the shape.'
        )
    return made
