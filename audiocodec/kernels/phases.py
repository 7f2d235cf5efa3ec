"""Toom and Cook's algorithm for wide 1-D convolutions with seven taps, dilated or not.

The residual units of DAC and its relatives consist of them. See `toom` for the algorithm. Ten
points, for seven taps at once, would have large rounding errors. Here, the kernel is split into two
halves of four taps, the last of them zero, and audio is cut into tiles of as many samples. The
second half multiplies the values of the next tile at the same points, so that each value is
computed once. At each point, this is a convolution of tiles with two taps. Halves the products.

With a dilation d, every d-th sample belongs to the same phase, and each phase is convolved on its
own. The tiles of all phases and items follow each other, with zeros in between.
"""

import torch
from torch.nn import functional as F

from audiocodec.kernels.geometry import Geometry
from audiocodec.kernels.toom import TILE, matrices

_TAPS = 7
_PADDING = 3  # in samples of a phase, such that the length is kept
_POINTS = 7
_ONE = 1  # index of the point 1, whose value is added once to every output, like a bias
# Minimum number of channels, in and out, from which on the saved products outweigh the transforms.
_MIN_CHANNELS = 128
# Minimum numbers of tiles of the batch, and of samples of a phase: short ones consist of zeros.
_MIN_TILES = 128
_MIN_PHASE = 8
_CHUNK_VALUES = 2**23  # values of audio that are transformed at a time, to limit the memory


def is_applicable(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> bool:
    """True if the algorithm is applicable and faster for x; arguments as for `convolve`.

    It is for training only: codes must not depend on the lengths for which it is faster.
    """
    return (
        torch.is_grad_enabled()
        and weight.dim() == 3
        and not geometry.transposed
        and weight.shape[2] == _TAPS
        and tuple(geometry.stride) == (1,)
        and geometry.padding[0] == _PADDING * geometry.dilation[0]
        and min(weight.shape[:2]) >= _MIN_CHANNELS
        and x.shape[2] >= _MIN_PHASE * geometry.dilation[0]
        and x.shape[0] * x.shape[2] >= _MIN_TILES * TILE
    )


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
) -> torch.Tensor:
    """Convolve audio.

    Args:
        x: float32 [B, C, T].
        weight: [O, C, 7].
        bias: [O] or None.
        geometry: geometry without stride, with a padding that keeps the length.

    Returns:
        [B, O, T].
    """
    _, _, outputs = matrices(TILE)
    kernels = _kernels_at_points(weight).flatten(0, 1)
    values = (
        None if bias is None else F.pad(bias, (_ONE * len(bias), (_POINTS - 1 - _ONE) * len(bias)))
    )
    parts = []
    for part in x.split(_chunk(x, weight)):
        inputs = _inputs_at_points(part, geometry)
        products = F.conv1d(inputs.flatten(0, 1)[None], kernels, values, groups=_POINTS)
        rows = outputs.t() @ products.view(_POINTS, -1)
        parts.append(_from_tiles(rows, part, len(weight), 0, geometry))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
        grad: [B, O, T], gradient at the result of `convolve`.
        x: see `convolve`.
        weight: see `convolve`.
        geometry: see `convolve`.
        needs_x: whether to compute the gradient at x.
        needs_weight: whether to compute the gradient at the weight.

    Returns:
        The gradients, None for one that is not needed.
    """
    if not needs_x and not needs_weight:
        return None, None
    inverse, _, outputs = matrices(TILE)
    x_grads = []
    sums = torch.zeros(2, _POINTS, *weight.shape[:2]) if needs_weight else None
    kernels = _transposed_kernels_at_points(weight).flatten(0, 1) if needs_x else None
    size = _chunk(x, weight)
    for part, part_grad in zip(x.split(size), grad.split(size)):
        # One tile of zeros comes first, that the second half of the kernel multiplies.
        tiles = _to_tiles(part_grad, TILE, geometry)[:-1]
        grads = (outputs @ tiles.t()).view(_POINTS, len(weight), -1)
        if kernels is not None:
            values = F.conv1d(grads.flatten(0, 1)[None], kernels, groups=_POINTS).view(_POINTS, -1)
            rows = inverse[:, :TILE].t() @ values
            rows[:-1, 1:].addmm_(inverse[:, TILE:].t(), values[:, :-1])
            x_grads.append(_from_tiles(rows, part, weight.shape[1], _PADDING, geometry))
        if sums is not None:
            inputs = _inputs_at_points(part, geometry).transpose(1, 2)
            for half in range(2):
                end = inputs.shape[1] - 1 + half
                sums[half].baddbmm_(grads[:, :, 1:], inputs[:, half:end])
    return (
        torch.cat(x_grads) if x_grads else None,
        None if sums is None else _kernels_transposed(sums, weight),
    )


def _chunk(x: torch.Tensor, weight: torch.Tensor) -> int:
    """Return the number of items to transform at a time."""
    return max(1, _CHUNK_VALUES // (max(weight.shape[:2]) * x.shape[2]))


def _to_tiles(x: torch.Tensor, offset: int, geometry: Geometry) -> torch.Tensor:
    """Copy audio [B, C, T] to tiles [C x (B x phases x tiles + 1) + 1, TILE].

    Each phase begins with `offset` zeros. There is a tile of zeros at the end of each channel, and
    one at the end of all.
    """
    B, C, T = x.shape
    dilation, count = geometry.dilation[0], _tiles_per_phase(T, geometry)
    size = B * dilation * count * TILE
    tiles = x.new_zeros(C * (size + TILE) + TILE)
    phases = tiles[:-TILE].view(C, -1)[:, :size].unflatten(1, (B, dilation, -1))
    for phase in range(dilation):
        samples = x[:, :, phase::dilation].transpose(0, 1)
        phases[:, :, phase, offset : offset + samples.shape[2]] = samples
    return tiles.view(-1, TILE)


def _from_tiles(
    rows: torch.Tensor, like: torch.Tensor, channels: int, offset: int, geometry: Geometry
) -> torch.Tensor:
    """Copy [TILE, channels x B x phases x tiles] to audio [B, channels, T].

    The batch and the length are those of `like`. See `_to_tiles` for the offset.
    """
    B, _, T = like.shape
    dilation = geometry.dilation[0]
    phases = rows.t().reshape(channels, B, dilation, -1).transpose(0, 1)
    out = like.new_empty(B, channels, T)
    for phase in range(dilation):
        samples = out[:, :, phase::dilation]
        samples.copy_(phases[:, :, phase, offset : offset + samples.shape[2]])
    return out


def _tiles_per_phase(length: int, geometry: Geometry) -> int:
    """Return the number of tiles of a phase, with the one for zeros."""
    return -(-length // (geometry.dilation[0] * TILE)) + 1


def _inputs_at_points(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Transform audio [B, C, T] to [points, C, B x phases x tiles + 1].

    The inputs of an output tile are those of its own tile and three of the next one.
    """
    inverse, _, _ = matrices(TILE)
    tiles = _to_tiles(x, _PADDING, geometry)
    values = inverse[:, :TILE] @ tiles[:-1].t()
    values.addmm_(inverse[:, TILE:], tiles[1:, :-1].t())
    return values.view(_POINTS, x.shape[1], -1)


def _kernels_at_points(weight: torch.Tensor) -> torch.Tensor:
    """Evaluate both halves of [O, C, 7] at each point: [points, O, C, 2]."""
    _, kernel, _ = matrices(TILE)
    halves = F.pad(weight, (0, 1)).view(-1, TILE)
    return (kernel @ halves.t()).view(_POINTS, *weight.shape[:2], 2)


def _transposed_kernels_at_points(weight: torch.Tensor) -> torch.Tensor:
    """Return `_kernels_at_points` with O and C swapped, and the halves: [points, C, O, 2]."""
    _, kernel, _ = matrices(TILE)
    swapped = weight.transpose(0, 1).contiguous()  # on its own, twice as fast as with the padding
    halves = torch.cat((F.pad(swapped[:, :, TILE:], (0, 1)), swapped[:, :, :TILE]), 2)
    return (kernel @ halves.view(-1, TILE).t()).view(_POINTS, *swapped.shape[:2], 2)


def _kernels_transposed(sums: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Apply the transpose of the evaluation to [2, points, O, C]: [O, C, 7]."""
    _, kernel, _ = matrices(TILE)
    halves = kernel.t() @ sums.flatten(2)  # [2, taps, O x C]
    return halves.flatten(0, 1)[:_TAPS].t().reshape(weight.shape)
