"""Snake, the periodic activation of DAC: x + sin^2(alpha x) / alpha, with alpha per channel.

See arXiv 2006.08195, and arXiv 2306.06546, section 3.1.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from audiocodec.modules.checks import require_int
from audiocodec.modules.reach import Reach

EPSILON = 1e-9  # added to alpha in denominators, as in DAC
_CACHED = 2**18  # values that stay in the cache of a core from one operator to the next


class Snake(nn.Module):
    """x + sin^2(alpha x) / (alpha + 1e-9), with a trained alpha per channel that starts at 1.

    For the backward pass it saves its input and its output. The convolution that follows saves the
    output anyway, so that this takes a single tensor; autograd would save five. Second derivatives
    are not supported.

    Args:
        channels: channels of the signal.

    Raises:
        ValueError: `channels` is below 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_int('channels', channels)
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels, T] to [B, channels, T]."""
        alpha = self.alpha.to(x.dtype)  # under autocast, x may have a smaller type
        if (
            torch.compiler.is_compiling() or x.is_meta
        ):  # fuses the operators and chooses what to save
            return x + torch.sin(alpha * x).square() / (alpha + EPSILON)
        if torch.is_grad_enabled() and (x.requires_grad or alpha.requires_grad):
            return _Snake.apply(x, alpha)
        return snake(x, alpha)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the range itself: an output depends on one input; see `reach`."""
        return Reach(first, last)

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return str(self.alpha.shape[1])


def snake(x: torch.Tensor, alpha: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the activation without a graph.

    Args:
        x: [B, C, T]; it is fastest if its memory is [B, C, T] or [B, T, C].
        alpha: [1, C, 1].
        out: [B, C, T], where to write the result; may be x.

    Returns:
        [B, C, T].
    """
    out = torch.empty_like(x) if out is None else out
    inverse = (alpha + EPSILON).reciprocal()
    for part in _parts(x):
        channels = part[1]
        sine = (x[part] * alpha[:, channels]).sin_()
        torch.addcmul(x[part], sine.mul_(sine), inverse[:, channels], out=out[part])
    return out


class _Snake(torch.autograd.Function):
    """Snake with s = sin(2 alpha x) in its gradients.

    dy/dx = 1 + s and dy/dalpha = (x (1 + s) - y) / alpha, so that the backward pass needs a single
    sine.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        y = snake(x, alpha)
        ctx.save_for_backward(x, y, alpha)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x, y, alpha = ctx.saved_tensors
        found = torch.empty_like(x)
        sums = torch.zeros_like(alpha)
        slope = 2 * alpha
        ratio = alpha / (alpha + EPSILON)
        for part in _parts(x):
            channels = part[1]
            outer = grad[part]
            sine = (x[part] * slope[:, channels]).sin_().mul_(ratio[:, channels])
            inner = torch.addcmul(outer, outer, sine, out=found[part])
            if ctx.needs_input_grad[1]:
                products = torch.mul(x[part], inner, out=sine).addcmul_(outer, y[part], value=-1)
                sums[:, channels] += products.sum((0, 2), keepdim=True)
        return found, sums / (alpha + EPSILON) if ctx.needs_input_grad[1] else None


def _parts(x: torch.Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the indices of parts of x [B, C, T].

    On a CPU, all operators run on a part that stays in the cache, then on the next.
    """
    everything = slice(None)
    if x.device.type != 'cpu':
        yield everything, everything, everything
        return
    batch, channels, length = x.shape
    size = _CACHED * torch.get_num_threads()
    frames = max(1, length)
    width = channels if x.stride(1) == 1 else min(channels, max(1, size // frames))
    steps = max(1, min(batch, size // (channels * frames))), width, max(1, size // width)
    for item in range(0, batch, steps[0]):
        for channel in range(0, channels, steps[1]):
            for frame in range(0, length, steps[2]):
                yield (
                    slice(item, item + steps[0]),
                    slice(channel, channel + steps[1]),
                    slice(frame, frame + steps[2]),
                )
