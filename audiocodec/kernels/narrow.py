"""The input gradient of 2-D convolutions of images with few channels, such as spectra, three times
as fast on a CPU.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

# Channels that a CPU's kernels compute at once, whether they are wanted or not.
_LANES = 16


def suits(
    channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> bool:
    """Whether `input_gradient` is right, and faster, for a convolution of so many channels."""
    return (
        2 * channels <= _LANES
        and _LANES % channels == 0
        and len(kernel_size) == 2
        and tuple(stride) == tuple(dilation) == (1, 1)
        and tuple(2 * side + 1 for side in padding) == tuple(kernel_size)
    )


def input_gradient(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gradient at the input [B, C, H, W] for that at the output [B, O, H, W], of a convolution that
    keeps the size.

    It is a convolution with C channels out, and kernels that compute 16 at once throw most of them
    away. Here 16 / C neighbours in a row become the channels of one convolution of that stride: it
    multiplies by some zeros, and throws nothing away.

    It is dx[c, i] = sum_o,t w[o, c, t] dy[o, i + p - t], along the rows, p being half the kernel.
    With i = S q + s, and k = s + 2 p - t, it is a convolution of dy of stride S, with a kernel of S
    + 2 p taps, for each pair (s, c).
    """
    outputs, channels, rows, taps = weight.shape
    items, _, height, width = grad.shape
    side = _LANES // channels
    flipped = weight.flip(2, 3)
    kernel = torch.stack([F.pad(flipped, (shift, side - 1 - shift)) for shift in range(side)])
    kernel = kernel.permute(0, 2, 1, 3, 4).reshape(side * channels, outputs, rows, side + taps - 1)
    # One block too many on the left, so that the padding, equal on both sides, is enough for the
    # last block.
    blocks = F.conv2d(
        grad,
        kernel.contiguous(memory_format=torch.channels_last),
        None,
        (1, side),
        (rows // 2, taps // 2 + side),
    )
    pixels = blocks.permute(0, 2, 3, 1)[:, :, 1:].reshape(items, height, -1, channels)[:, :, :width]
    return pixels.permute(0, 3, 1, 2)
