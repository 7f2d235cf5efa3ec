"""Snake, the periodic activation of BigVGAN and DAC (arXiv 2006.08195, arXiv 2306.06546)."""

from typing import Any

import torch
from torch import nn

from audiocodec.modules.checks import require_int
from audiocodec.modules.reach import Reach

EPSILON = 1e-9  # keeps 1 / alpha finite


class _Snake(torch.autograd.Function):
    """x + sin²(alpha x) / alpha, with few passes over memory in both directions.

    The output is saved, which the next convolution saves as its input, too, so that the sine need
    not be kept: sin²(alpha x) / alpha is the difference of output and input.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        y = _snake(x, alpha)
        ctx.save_for_backward(x, alpha, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, alpha, y = ctx.saved_tensors
        inverse = 1 / (alpha + EPSILON)
        # d/dx sin²(alpha x) = alpha sin(2 alpha x)
        product = (x * (2 * alpha)).sin_().mul_(grad)
        grad_x = torch.addcmul(grad, product, alpha * inverse)
        # d/dalpha sin²(alpha x) / alpha = (x sin(2 alpha x) - sin²(alpha x) / alpha) / alpha
        sums = _dot(product, x) - _dot(grad, y) + _dot(grad, x)
        return grad_x, (sums.to(alpha.dtype) * inverse.flatten()).view_as(alpha)


def _snake(x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    sine = (x * alpha).sin_()
    return torch.addcmul(x, sine.square_(), 1 / (alpha + EPSILON))


def _dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Sum the products of two tensors [B, C, T] over B and T, without an intermediate tensor."""
    B, C, T = first.shape
    rows = torch.bmm(first.reshape(B * C, 1, T), second.reshape(B * C, T, 1))
    return rows.view(B, C).sum(0)


class Snake(nn.Module):
    """x + sin²(alpha x) / alpha, with a frequency alpha per channel.

    Use it as `activation=audiocodec.modules.Snake`: SEANet passes the number of channels.

    Args:
        channels: channels of the signal.
        alpha: initial frequency, in radians per unit of the signal.

    Parameters:
        alpha: [1, channels, 1].

    Raises:
        ValueError: `channels` is not a positive integer, or `alpha` is not above 0.
    """

    def __init__(self, channels: int, alpha: float = 1.0) -> None:
        super().__init__()
        require_int('channels', channels)
        if not alpha > 0:
            raise ValueError(f'alpha={alpha}: expected a number above 0')
        self.alpha = nn.Parameter(torch.full((1, channels, 1), float(alpha)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels, T] to [B, channels, T], in the type of x."""
        alpha = self.alpha.to(x.dtype)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return x + (x * alpha).sin().square() / (alpha + EPSILON)
        return _Snake.apply(x, alpha)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the same range: each output depends on one input; see `reach`."""
        return Reach(first, last)
