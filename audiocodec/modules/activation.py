"""Activation functions, created by class name."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.utils import config

# of `torch.nn`, for signals in pieces: an output depends on the input at its place only
POINTWISE = (nn.ELU, nn.GELU, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Softplus, nn.Tanh)


class _ELU(torch.autograd.Function):
    """ELU that saves its output, not its input, for the backward pass.

    The next layer saves that same tensor as its input, so the input of the ELU can be freed.
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
    """`torch.nn.ELU` that saves one tensor less for the backward pass."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [...] to [...]."""
        # With a negative alpha, the output does not determine the gradient. torch.compile chooses
        # by itself which tensors to save.
        if (
            self.inplace
            or self.alpha < 0
            or not input.requires_grad
            or torch.compiler.is_compiling()
        ):
            return super().forward(input)
        return _ELU.apply(input, self.alpha)

    def overwrite(self, x: torch.Tensor) -> torch.Tensor:
        """Map [...] to [...], in place.

        A negative alpha gives a new tensor: its gradient cannot be computed from the output.
        """
        return F.elu(x, self.alpha, inplace=True) if self.alpha >= 0 else self(x)


def activation_class(name: str) -> type[nn.Module]:
    """Return the class of an activation.

    Args:
        name: a class of `torch.nn`, such as LeakyReLU, or the dotted name of another class, such
            as `my_codec.Snake`.

    Raises:
        ValueError: the class does not exist or is not allowed (see `utils.config.allow_targets`).
    """
    if isinstance(name, str) and '.' in name:
        cls = config.locate(name)
    else:
        cls = getattr(nn, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(
            f'activation={name!r} is not a module of torch.nn: use ELU, LeakyReLU or Tanh, for '
            'instance, or the dotted name of your own class'
        )
    return ELU if cls is nn.ELU else cls


def with_defaults(name: str | None, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of an activation, defaults included, as far as they affect results.

    Args:
        name: see `activation_class`; None for no activation.
        params: arguments that are set.
    """
    parameters = {} if name is None else inspect.signature(activation_class(name)).parameters
    arguments = {
        each.name: each.default for each in parameters.values() if each.default is not each.empty
    }
    arguments.update(params or {})
    arguments.pop('inplace', None)  # computes the same
    return arguments


def make_activation(
    name: str, params: Mapping[str, Any] | None = None, channels: int | None = None
) -> nn.Module:
    """Create an activation; ELU in a variant that takes less memory.

    Args:
        name: see `activation_class`.
        params: arguments of the class.
        channels: channels of the signal, passed on to a class that takes an argument `channels`
            (one with parameters per channel).

    Returns:
        A module that maps [B, channels, T] to the same shape.

    Raises:
        ValueError: unknown class, parameters that it does not accept, or an output of another
            shape.
    """
    cls = activation_class(name)
    arguments = dict(params or {})
    if channels is not None and 'channels' in inspect.signature(cls).parameters:
        arguments.setdefault('channels', channels)
    try:
        activation = cls(**arguments)
        example = torch.zeros(1, channels or 2, 1)
        # Many constructors accept any value and fail only when they are called.
        with torch.no_grad():
            shape = activation(example).shape
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f'parameters {arguments} do not fit the activation {name}: {error}'
        ) from error
    if shape != example.shape:
        raise ValueError(
            f'activation={name!r} maps the shape {list(example.shape)} to {list(shape)}: it must '
            'keep the shape'
        )
    return activation
