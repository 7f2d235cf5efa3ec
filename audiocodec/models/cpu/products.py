"""Layers for a few frames at a time, with weights in the order of oneDNN."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.models.cpu.kernels import Kernel

_LEAST_ROWS = 4  # of a product with packed weights: fewer are slower
_FEW_ROWS = 16  # of a product whose weights are packed; the order is the same for other numbers
_WINDOWS = 2**18  # most values that are copied for a product: a convolution does not copy them
_LONG = 200  # outputs for which a copy takes longer than to start more products
_NARROW = 64  # outputs of a convolution whose windows take as long to copy as to multiply
_MANY = 2**17  # weights that oneDNN multiplies faster once they are packed in its order


class Product(nn.Module):
    """Convolution that is one matrix product for a few frames.

    oneDNN reorders the weights of a convolution on every call. With many weights, this takes longer
    than to convolve a few frames. Here, many weights are in oneDNN's order already.

    Args:
        kernel: one with a single group.
    """

    is_product = False

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        assert kernel.groups == 1
        self.taps = kernel.taps
        self.stride = kernel.stride
        self.dilation = kernel.dilation
        self.span = (kernel.taps - 1) * kernel.dilation + 1  # inputs of an output
        self.kernel = kernel
        self.multiply = make_product(kernel.matrix(), kernel.bias)
        self.blocks: list[torch.Tensor] = []  # weights of consecutive blocks of `stride` frames
        width = kernel.matrix().shape[1] // kernel.taps * kernel.stride
        if (
            kernel.taps > kernel.stride
            and kernel.taps % kernel.stride == 0
            and (kernel.dilation == 1 or kernel.stride == 1)
            and kernel.outputs <= min(_NARROW, width)
        ):
            self.blocks = [part.t().contiguous() for part in kernel.matrix().split(width, 1)]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Map [B, C, 1, T], channels last, to [B, O, T']."""
        return self.of_rows(rows[:, :, 0].transpose(1, 2)).transpose(1, 2)

    def of_rows(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, T, C] to [B, T', O]."""
        items, frames, channels = x.shape
        if self.blocks and items == 1 and frames >= _LONG * self.stride:
            return self._of_blocks(x[0])[None]
        if self.taps > 1 or self.stride > 1:
            frames = (frames - self.span) // self.stride + 1
            if items * frames * self.taps * channels > _WINDOWS:
                return self.kernel(x.transpose(1, 2).unsqueeze(2)).transpose(1, 2)
            item, row, value = x.stride()
            x = x.as_strided(
                (items, frames, self.taps, channels),
                (item, self.stride * row, self.dilation * row, value),
                x.storage_offset(),
            )
        y = self.multiply(x.reshape(items * frames, self.taps * channels))
        return y.view(items, frames, y.shape[1])

    def _of_blocks(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, C] to [T', O] block by block: to copy the windows would take as long."""
        frames = (x.shape[0] - self.span) // self.stride + 1
        if self.stride > 1:
            whole = x.shape[0] // self.stride
            x = x[: whole * self.stride].reshape(whole, -1)
        y = torch.addmm(self.kernel.bias, x[:frames], self.blocks[0])
        for index, weight in enumerate(self.blocks[1:], 1):
            y.addmm_(x.narrow(0, index * self.dilation, frames), weight)
        return y


class LinearProduct(nn.Module):
    """`nn.Linear` of a few frames at a time, see `make_product`."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        bias = source.weight.new_zeros(source.out_features) if source.bias is None else source.bias
        self.multiply = make_product(source.weight, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., C] to [..., O]."""
        return self.multiply(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])


def make_product(
    weight: torch.Tensor, bias: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that maps [N, C] to `x @ weight.t() + bias`, [N, O].

    Args:
        weight: [O, C].
        bias: [O].
    """
    weight, bias = weight.detach(), bias.detach()
    if (
        weight.numel() >= _MANY
        and _has_onednn(weight)
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    ):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _FEW_ROWS)
        return partial(_packed_product, weight=packed, bias=bias)
    return partial(_plain_product, weight=weight.t(), bias=bias)


def _packed_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    rows = x.shape[0]
    if rows < _LEAST_ROWS:
        x = F.pad(x, (0, 0, 0, _LEAST_ROWS - rows))
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [None], '')[:rows]


def _plain_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.addmm(bias, x, weight)


class Recurrence:
    """`nn.LSTM` that goes on from a state.

    oneDNN would reorder the weights on every call, which takes longer than a few frames. Here, they
    are in its order already, and the result is bit for bit the same.

    Args:
        source: unidirectional, with biases.
    """

    def __init__(self, source: nn.LSTM) -> None:
        self.source = source
        self.packed = None
        weight = source.all_weights[0][0]
        if _has_onednn(weight) and hasattr(torch.ops.mkldnn, '_reorder_mkldnn_rnn_layer_weight'):
            self.packed = [self._pack(*weights) for weights in source.all_weights]

    def _pack(
        self, inputs: torch.Tensor, hidden: torch.Tensor, *biases: torch.Tensor
    ) -> list[torch.Tensor]:
        size = self.source.hidden_size
        weights = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
            inputs.detach(), hidden.detach(), size, False, True, False, [_FEW_ROWS, 1, size]
        )
        return [*weights, *(bias.detach() for bias in biases)]

    def __call__(
        self, x: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map [T, B, C], and the state of all layers, [L, B, C] each, to the same shapes."""
        if self.packed is None:
            y, (hidden, cell) = self.source(x, (hidden.contiguous(), cell.contiguous()))
            return y, hidden, cell
        states = []
        for weights, *state in zip(self.packed, hidden, cell):
            x, *after, _ = torch.ops.aten.mkldnn_rnn_layer(
                x, *weights, *state, False, [], 2, state[0].shape[1], 1, True, False, False, False
            )
            states.append(after)
        hidden, cell = (torch.stack(values) for values in zip(*states))
        return x, hidden, cell


def _has_onednn(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == 'cpu'
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )
