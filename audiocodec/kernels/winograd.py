"""Winograd's algorithm for 2-D convolutions with three taps in time, for CPUs with AVX2.

It halves the number of multiplications. With AVX-512, which multiplies twice as many numbers at a
time, the additional memory accesses cost more than that.
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
# four outputs y of a filter g with three taps, from six inputs d, are y = AT ((G g) * (BT d)), with
# six products instead of twelve. Filter and inputs are regarded as polynomials, which are evaluated
# at the points 0, 1, -1, 2, -2 and infinity, multiplied there, and interpolated.
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
_POINTS = 6
_TAPS = 3
_TILE = 4  # outputs per tile
_ONE = 1  # index of the point 1, whose value is added once to every output, like a bias

# Minimum numbers of channels and of taps in frequency for which the saved products outweigh the
# transforms.
_MIN_CHANNELS = 16
_MIN_WIDTH = 5
# Bytes of values computed at a time, so that they are still in the cache when they are used.
_CHUNK_BYTES = 24 * 2**20


def is_applicable(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> bool:
    """True if Winograd is applicable and faster for x; arguments as for `convolve`."""
    return (
        IS_FASTER
        and weight.dim() == 4
        and not geometry.transposed
        and weight.shape[2] == _TAPS
        and geometry.stride[0] == 1
        and weight.shape[3] >= _MIN_WIDTH
        and min(weight.shape[:2]) >= _MIN_CHANNELS
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
        geometry: geometry with a stride of 1 in time.

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
        product_rows = torch.cat([_rows(product) for product in products])
        rows = transforms.from_points(product_rows)
        width = products[0].shape[3]
        images = rows.view(transforms.items, -1, width, len(weight)).permute(0, 3, 1, 2)
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
    needs_x: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients at x and at the weight.

    The transforms are linear, so that their gradients are their transposes.

    Args:
        grad: [B, O, T_out, F_out], gradient at the result of `convolve`.
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
    grad = grad.contiguous(memory_format=torch.channels_last)
    kernels = _at_points(weight)
    x_grad = torch.empty_like(x) if needs_x else None
    kernel_grads = torch.zeros(_POINTS, *kernels[0].shape) if needs_weight else None
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
    if kernel_grads is None:
        return x_grad, None
    return x_grad, torch.einsum('pt,pocf->octf', _G, kernel_grads.squeeze(3))


def _add_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    kernels: list[torch.Tensor],
    geometry: Geometry,
    transforms: '_Transforms',
    x_grad: torch.Tensor | None,
    kernel_grads: torch.Tensor | None,
) -> None:
    """Write the gradient of some items to `x_grad`, and add that of the kernels to `kernel_grads`.

    Either is None if it is not needed.
    """
    stride, padding, dilation, _ = geometry
    grads = _images(transforms.from_points_transposed(_rows(grad)), transforms, grad)
    rows = (
        transforms.to_points(_rows(x))
        if kernel_grads is not None
        else x.new_empty(_POINTS * transforms.items * transforms.tiles, x.shape[3] * x.shape[1])
    )
    values = _images(rows, transforms, x)
    # Each gradient overwrites the values that it belongs to, unless second derivatives need these.
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
    """Sparse matrix, to be multiplied with dense matrices.

    The products are weighted sums of a few rows of the dense matrix, for which PyTorch has a fast
    CPU function, made for embedding tables.

    Args:
        rows: row index of each entry.
        columns: column index of each entry.
        weights: value of each entry.
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
    """Transforms between rows [items x time] and values at points [points x items x tiles]."""

    items: int
    tiles: int
    to_points: _SparseMatrix
    to_points_transposed: _SparseMatrix
    from_points: _SparseMatrix
    from_points_transposed: _SparseMatrix


@functools.lru_cache(maxsize=256)
def _transforms(items: int, length: int, padding: int, dilation: int) -> _Transforms:
    """Create the transforms for items of `length` rows, with `padding` rows of zeros on each side.

    The rows of a tile are `dilation` apart, like the taps of the kernel.
    """
    # With a dilation, each phase (every dilation-th row) is convolved on its own and has its own
    # tiles.
    out_length = length + 2 * padding - (_TAPS - 1) * dilation
    per_phase = -(-out_length // (dilation * _TILE))
    tiles = dilation * per_phase

    def entries(
        matrix: np.ndarray, shift: int, rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Expand a matrix [points, rows of a tile] to all tiles.

        Returns:
            Index of the value, index of the row, and weight of each nonzero entry.
        """
        point, item, tile, step = np.meshgrid(
            *map(np.arange, (_POINTS, items, tiles, matrix.shape[1])), indexing='ij'
        )
        # Rows of the padding and rows beyond the end have no entries.
        row = tile // per_phase + dilation * (tile % per_phase * _TILE + step) - shift
        used = (row >= 0) & (row < rows) & (matrix[point, step] != 0)
        value_index = (point * items + item) * tiles + tile
        row_index = item * rows + row
        return value_index[used], row_index[used], matrix[point, step][used]

    values = _POINTS * items * tiles
    in_value, in_row, in_weights = entries(_BT, padding, length)
    out_value, out_row, out_weights = entries(_AT.T, 0, out_length)
    return _Transforms(
        items,
        tiles,
        to_points=_SparseMatrix(in_value, in_row, in_weights, values),
        to_points_transposed=_SparseMatrix(in_row, in_value, in_weights, items * length),
        from_points=_SparseMatrix(out_row, out_value, out_weights, items * out_length),
        from_points_transposed=_SparseMatrix(out_value, out_row, out_weights, values),
    )


def _chunks(x: torch.Tensor, geometry: Geometry) -> Iterator[tuple[slice, _Transforms]]:
    """Yield slices of as many items as fit into the cache, and their transforms."""
    size = max(1, _CHUNK_BYTES // (x[0].numel() * x.element_size() * _POINTS // _TILE))
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        items = part.stop - start
        yield part, _transforms(items, x.shape[2], geometry.padding[0], geometry.dilation[0])


def _at_points(weight: torch.Tensor) -> list[torch.Tensor]:
    """Evaluate the kernel [O, C, 3, K] at each point: [O, C, 1, K]."""
    kernels = torch.einsum('pt,octf->pocf', _G, weight)
    return [kernel.unsqueeze(2).contiguous(memory_format=torch.channels_last) for kernel in kernels]


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return the rows of channels-last images, [items x time, frequency x channels]."""
    return x.permute(0, 2, 3, 1).flatten(0, 1).flatten(1)


def _images(rows: torch.Tensor, transforms: _Transforms, like: torch.Tensor) -> torch.Tensor:
    """Reshape values to channels-last images [points, items, C, tiles, F].

    The number of channels C and the width F are those of `like`.
    """
    return rows.view(
        _POINTS, transforms.items, transforms.tiles, like.shape[3], like.shape[1]
    ).permute(0, 1, 4, 2, 3)
