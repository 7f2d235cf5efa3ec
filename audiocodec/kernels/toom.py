"""Toom and Cook's algorithm for wide 2-D convolutions whose kernels extend in time only.

The convolutions of period discriminators have hundreds of channels, few frames, and five taps. For
them, the products outweigh the transforms of the algorithm even with AVX-512. It saves 60% of the
products. With a stride, it would save too few of them.
"""

import functools

import numpy as np
import torch
from torch.nn import functional as F

from audiocodec.kernels.geometry import Geometry

# See Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308):
# `TILE` outputs of a filter g with r taps, from inputs d, are y = AT ((G g) * (BT d)), with one
# product per point at which the filter and the inputs, as polynomials, are evaluated. Points of
# small size whose inverses are points, too, have the smallest rounding errors.
TILE = 4
_POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)  # and infinity
_MAX_TAPS = len(_POINTS) + 2 - TILE
# Numbers of channels, in and out, of taps, and of pixels, from which on it is faster.
_MIN_CHANNELS = 512
_MIN_TAPS = 4
_MIN_PIXELS = 256


def is_applicable(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> bool:
    """True if the algorithm is applicable and faster for x; arguments as for `convolve`."""
    return (
        weight.dim() == 4
        and not geometry.transposed
        and weight.shape[3] == 1
        and min(weight.shape[:2]) >= _MIN_CHANNELS
        and _MIN_TAPS <= weight.shape[2] <= _MAX_TAPS
        and tuple(geometry.dilation) == (1, 1)
        and tuple(geometry.stride) == (1, 1)
        and geometry.padding[1] == 0
        and x.shape[0] * x.shape[2] * x.shape[3] >= _MIN_PIXELS
        and x.shape[2] + 2 * geometry.padding[0] >= weight.shape[2]
    )


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
) -> torch.Tensor:
    """Convolve images.

    Args:
        x: float32 [B, C, T, W].
        weight: [O, C, K, 1].
        bias: [O] or None.
        geometry: geometry without stride and dilation, and without padding in W.

    Returns:
        [B, O, T_out, W].
    """
    inverse, _, outputs = matrices(weight.shape[2])
    frames = x.shape[2] + 2 * geometry.padding[0] - weight.shape[2] + 1
    products = _kernels_at_points(weight) @ _inputs_at_points(
        _tiles(x, weight.shape[2], geometry.padding[0]), inverse
    )
    tiles = (outputs.t() @ products.flatten(1)).view(TILE, len(weight), len(x), -1, x.shape[3])
    out = tiles.permute(2, 1, 3, 0, 4).flatten(2, 3)[:, :, :frames]
    return out.contiguous() if bias is None else out + bias[:, None, None]


def gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients at x and at the weight.

    The transforms are linear, so that their gradients are their transposes.

    Args:
        grad: [B, O, T_out, W], gradient at the result of `convolve`.
        x: see `convolve`.
        weight: see `convolve`.
        geometry: see `convolve`.
        needs_x: whether to compute the gradient at x.
        needs_weight: whether to compute the gradient at the weight.

    Returns:
        The gradients, None for one that is not needed.
    """
    inverse, _, outputs = matrices(weight.shape[2])
    rows = F.pad(grad, (0, 0, 0, -grad.shape[2] % TILE)).unflatten(2, (-1, TILE))
    rows = rows.permute(3, 1, 0, 2, 4).reshape(TILE, -1)
    grads = (outputs @ rows).view(len(outputs), len(weight), -1)
    x_grad = weight_grad = None
    if needs_x:
        values = _kernels_at_points(weight).transpose(1, 2) @ grads
        x_grad = _tiles_transposed(inverse.t() @ values.flatten(1), x, geometry.padding[0])
    if needs_weight:
        values = _inputs_at_points(_tiles(x, weight.shape[2], geometry.padding[0]), inverse)
        weight_grad = _kernels_transposed(grads @ values.transpose(1, 2), weight)
    return x_grad, weight_grad


@functools.lru_cache(maxsize=8)
def matrices(taps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return BT [points, points], G [points, taps] and A [points, TILE]."""
    count = taps + TILE - 1

    def powers(size: int) -> np.ndarray:
        finite = np.array(_POINTS[: count - 1])[:, None] ** np.arange(size)
        return np.concatenate([finite, np.eye(size)[-1:]])

    matrices = (np.linalg.inv(powers(count)).T, powers(taps), powers(TILE))
    inverse, kernel, outputs = (torch.from_numpy(m.astype(np.float32)) for m in matrices)
    return inverse, kernel, outputs


def _kernels_at_points(weight: torch.Tensor) -> torch.Tensor:
    """Evaluate [O, C, taps, 1] at each point: [points, O, C]."""
    _, kernel, _ = matrices(weight.shape[2])
    return (kernel @ weight.reshape(-1, weight.shape[2]).t()).view(-1, *weight.shape[:2])


def _kernels_transposed(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Apply the transpose of `_kernels_at_points`."""
    _, kernel, _ = matrices(weight.shape[2])
    return (kernel.t() @ values.flatten(1)).t().reshape(weight.shape)


def _tiles(x: torch.Tensor, taps: int, padding: int) -> torch.Tensor:
    """Cut overlapping tiles of x: [points, C, B x tiles x W]."""
    size = TILE + taps - 1
    count = -(-(x.shape[2] + 2 * padding - taps + 1) // TILE)
    length = count * TILE + taps - 1
    x = F.pad(x, (0, 0, padding, length - padding - x.shape[2]))
    tiles = x.unfold(2, size, TILE)  # [B, C, tiles, W, size]
    return tiles.permute(4, 1, 0, 2, 3).reshape(size, x.shape[1], -1)


def _tiles_transposed(rows: torch.Tensor, x: torch.Tensor, padding: int) -> torch.Tensor:
    """Apply the transpose of `_tiles`: add overlapping tiles."""
    B, C, T, W = x.shape
    tiles = rows.view(len(rows), C, B, -1, W).permute(2, 1, 3, 0, 4)
    # A tile overlaps the next one only: its first TILE inputs, then the others.
    rest = F.pad(tiles[:, :, :, TILE:], (0, 0, 0, 2 * TILE - len(rows)))
    padded = F.pad(tiles[:, :, :, :TILE], (0, 0, 0, 0, 0, 1)) + F.pad(rest, (0, 0, 0, 0, 1, 0))
    return padded.flatten(2, 3)[:, :, padding : padding + T].contiguous()


def _inputs_at_points(tiles: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Evaluate [points, C, N]: [points, C, N]."""
    return (inverse @ tiles.flatten(1)).view_as(tiles)
