"""Images convolved with three taps in time by Winograd's algorithm: half of the multiplications,
for CPUs up to AVX2.

Where AVX-512 multiplies twice as many numbers at a time, what is saved is lost on the way to and
from memory.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from audiocodec.kernels.geometry import Geometry

IS_FASTER = torch.backends.cpu.get_cpu_capability() == 'AVX2'

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), F(4, 3):
# four outputs y of a filter of three taps g, from six inputs d, are y = AT ((G g) * (BT d)), with
# six products instead of twelve. Filter and inputs are polynomials: evaluated at the points 0, 1,
# -1, 2, -2 and infinity, multiplied there, and interpolated.
_BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
_POINTS, _TAPS, _TILE = 6, 3, 4
_ONE = 1  # index of the point 1, whose value counts once in every output, as a bias does

_CHANNELS, _WIDTH = (
    16,
    5,
)  # from which on the products, of channels and taps in frequency, outweigh the transforms
_CHUNK = (
    24 * 2**20
)  # bytes of values that are made at a time: they should be in the cache when they are used


def suits(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> bool:
    """Whether this is a way, and the faster one here, to convolve x with a kernel; arguments as of
    `convolve`.
    """
    return (
        IS_FASTER
        and weight.dim() == 4
        and not geometry.transposed
        and weight.shape[2] == _TAPS
        and geometry.stride[0] == 1
        and weight.shape[3] >= _WIDTH
        and min(weight.shape[:2]) >= _CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and len(x) > 0
        and x.shape[2] + 2 * geometry.padding[0] > (_TAPS - 1) * geometry.dilation[0]
    )


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
) -> torch.Tensor:
    """Convolve images.

    Args:
        x: float32 [B, C, T, F], channels-last.
        weight: [O, C, 3, K].
        bias: [O] or None.
        geometry: of stride 1 in time.

    Returns:
        [B, O, T_out, F_out], channels-last.
    """
    kernels = _at_points(weight)
    stride, padding, dilation, _ = geometry
    out = None
    for part, transforms in _chunks(x, geometry):
        values = _images(transforms.to_points(_rows(x[part])), transforms, x)
        products = [
            F.conv2d(
                value,
                kernel,
                bias if point == _ONE else None,
                (1, stride[1]),
                (0, padding[1]),
                (1, dilation[1]),
            )
            for point, (value, kernel) in enumerate(zip(values, kernels))
        ]
        rows = transforms.from_points(torch.cat([_rows(product) for product in products]))
        images = rows.view(transforms.items, -1, products[0].shape[3], len(weight)).permute(
            0, 3, 1, 2
        )
        if out is None:
            out = torch.empty(len(x), *images.shape[1:], memory_format=torch.channels_last)
        out[part] = images
    assert out is not None
    return out


def gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    of_x: bool,
    of_weight: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients at x and at the weight, as far as they are wanted.

    The transforms are linear, and their gradients are their transposes.

    Args:
        grad: [B, O, T_out, F_out], at the result of `convolve`.
        x: see `convolve`.
        weight: see `convolve`.
        geometry: see `convolve`.
        of_x: whether the first is wanted.
        of_weight: whether the second is wanted.
    """
    if not of_x and not of_weight:
        return None, None
    grad = grad.contiguous(memory_format=torch.channels_last)
    kernels = _at_points(weight)
    x_grad = torch.empty_like(x) if of_x else None
    kernel_grads = torch.zeros(_POINTS, *kernels[0].shape) if of_weight else None
    for part, transforms in _chunks(x, geometry):
        _add_gradients(
            grad[part],
            x[part],
            kernels,
            geometry,
            transforms,
            None if x_grad is None else x_grad[part],
            kernel_grads,
        )
    return x_grad, None if kernel_grads is None else torch.einsum(
        'pt,pocf->octf', _G, kernel_grads.squeeze(3)
    )


def _add_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    kernels: list[torch.Tensor],
    geometry: Geometry,
    transforms: '_Transforms',
    x_grad: torch.Tensor | None,
    kernel_grads: torch.Tensor | None,
) -> None:
    """Put the gradient at some items into `x_grad`, and add the kernels' to `kernel_grads`, if they
    are wanted.
    """
    stride, padding, dilation, _ = geometry
    grads = _images(transforms.from_points_transposed(_rows(grad)), transforms, grad)
    rows = (
        transforms.to_points(_rows(x))
        if kernel_grads is not None
        else x.new_empty(_POINTS * transforms.items * transforms.tiles, x.shape[3] * x.shape[1])
    )
    values = _images(rows, transforms, x)
    # Each gradient takes the place of the values it belongs to, unless second derivatives will want
    # these.
    value_grads = torch.empty_like(values) if torch.is_grad_enabled() else values
    for point, kernel in enumerate(kernels):
        value_grad, kernel_grad, _ = torch.ops.aten.convolution_backward(
            grads[point],
            values[point],
            kernel,
            None,
            [1, stride[1]],
            [0, padding[1]],
            [1, dilation[1]],
            False,
            [0, 0],
            1,
            [x_grad is not None, kernel_grads is not None, False],
        )
        if x_grad is not None:
            value_grads[point] = value_grad
        if kernel_grads is not None:
            kernel_grads[point] += kernel_grad
    if x_grad is not None:
        rows = transforms.to_points_transposed(_rows(value_grads.flatten(0, 1)))
        x_grad.copy_(
            rows.view(transforms.items, x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
        )


class _SparseMatrix:
    """Applied to a matrix, it gives weighted sums of a few of its rows.

    PyTorch has a fast function for that on CPUs, made for tables of embeddings.

    Args:
        rows: of the entries.
        columns: of the entries.
        weights: the entries.
        size: number of rows.
    """

    def __init__(
        self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, size: int
    ) -> None:
        order = np.lexsort((columns, rows))
        self.columns = torch.from_numpy(columns[order].astype(np.int32))
        self.weights = torch.from_numpy(weights[order].astype(np.float32))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))])
        self.offsets = torch.from_numpy(offsets.astype(np.int32))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [columns, N] to [rows, N]."""
        return F.embedding_bag(
            self.columns,
            x,
            self.offsets,
            mode='sum',
            per_sample_weights=self.weights,
            include_last_offset=True,
        )


class _Transforms(NamedTuple):
    """Between rows, [items x time], and values at the points, [points x items x tiles]."""

    items: int
    tiles: int
    to_points: _SparseMatrix
    to_points_transposed: _SparseMatrix
    from_points: _SparseMatrix
    from_points_transposed: _SparseMatrix


@functools.lru_cache(maxsize=256)
def _transforms(items: int, length: int, padding: int, dilation: int) -> _Transforms:
    """For items of `length` rows, between `padding` rows of zeros.

    Rows that are `dilation` apart are convolved with each other; tiles are of such rows.
    """
    out_length = length + 2 * padding - (_TAPS - 1) * dilation
    per_phase = -(-out_length // (dilation * _TILE))
    tiles = dilation * per_phase

    def entries(
        matrix: np.ndarray, shift: int, rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a matrix [points, rows of a tile]: indices of values and of rows, and the weights."""
        point, item, tile, step = np.meshgrid(
            *map(np.arange, (_POINTS, items, tiles, matrix.shape[1])), indexing='ij'
        )
        row = tile // per_phase + dilation * (tile % per_phase * _TILE + step) - shift
        used = (row >= 0) & (row < rows) & (matrix[point, step] != 0)
        return (
            ((point * items + item) * tiles + tile)[used],
            (item * rows + row)[used],
            matrix[point, step][used],
        )

    values = _POINTS * items * tiles
    to_value, of_row, weights = entries(_BT, padding, length)
    of_value, to_row, back_weights = entries(_AT.T, 0, out_length)
    return _Transforms(
        items,
        tiles,
        _SparseMatrix(to_value, of_row, weights, values),
        _SparseMatrix(of_row, to_value, weights, items * length),
        _SparseMatrix(to_row, of_value, back_weights, items * out_length),
        _SparseMatrix(of_value, to_row, back_weights, values),
    )


def _chunks(x: torch.Tensor, geometry: Geometry) -> Iterator[tuple[slice, _Transforms]]:
    """Consecutive items, as many at a time as the cache takes, and their transforms."""
    size = max(1, _CHUNK // (x[0].numel() * x.element_size() * _POINTS // _TILE))
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        yield (
            part,
            _transforms(part.stop - start, x.shape[2], geometry.padding[0], geometry.dilation[0]),
        )


def _at_points(weight: torch.Tensor) -> list[torch.Tensor]:
    """The kernel [O, C, 3, K] at each point: [O, C, 1, K]."""
    kernels = torch.einsum('pt,octf->pocf', _G, weight)
    return [kernel.unsqueeze(2).contiguous(memory_format=torch.channels_last) for kernel in kernels]


def _rows(x: torch.Tensor) -> torch.Tensor:
    """The rows of channels-last images, [items x time, frequency x channels]."""
    return x.permute(0, 2, 3, 1).flatten(0, 1).flatten(1)


def _images(rows: torch.Tensor, transforms: _Transforms, like: torch.Tensor) -> torch.Tensor:
    """Values as channels-last images [points, items, C, tiles, F], with the channels and the width
    of others.
    """
    return rows.view(
        _POINTS, transforms.items, transforms.tiles, like.shape[3], like.shape[1]
    ).permute(0, 1, 4, 2, 3)
