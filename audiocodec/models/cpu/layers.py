"""Layers for CPUs, which can compute a part of their output.

Tensors stay [B, C, T] with memory [B, T, C]. A transposed convolution of stride s becomes a plain
one with s times the channels per frame: in this layout, these are the s samples of the frame, and
nothing needs to be moved.
"""

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.models.cpu.kernels import (
    GroupedTranspose,
    Kernel,
    RowSnake,
    ScaledELU,
    make_kernel,
    padded,
)
from audiocodec.models.cpu.parts import Chain, Layer
from audiocodec.models.cpu.products import Product
from audiocodec.modules.activation import POINTWISE
from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.networks.seanet import SEANetResnetBlock
from audiocodec.modules.snake import Snake

_WEIGHTS = 2**19  # most weights of a layer computed in parts: they are reordered for each part


def channels_last(layers: nn.Sequential, scale: float) -> list[nn.Module]:
    """Convert layers; an activation is fused with the convolution that follows it."""
    made: list[nn.Module] = []
    activation: nn.Module | None = None
    for layer in layers:
        is_conv = isinstance(layer, StreamableConv1d) or (
            isinstance(layer, StreamableConvTranspose1d)
            and isinstance(layer.convtr.norm, nn.Identity)
        )
        if activation is not None and not is_conv:
            made.append(Activation(activation))
            activation = None
        if isinstance(layer, StreamableConv1d):
            made.append(Conv(layer, activation, scale))
            activation = None
        elif is_conv:
            assert isinstance(layer, StreamableConvTranspose1d)
            made.append(ConvTranspose(layer, activation, scale))
            activation = None
        elif isinstance(layer, SEANetResnetBlock):
            made.append(Block(layer, scale))
        elif isinstance(layer, StreamableLSTM):
            made.append(LSTM(layer, scale))
        else:
            activation = _pointwise(layer, scale)
    return made if activation is None else [*made, Activation(activation)]


def _pointwise(activation: nn.Module, scale: float) -> nn.Module:
    """Return the faster variant of an activation, or the activation itself."""
    if isinstance(activation, nn.ELU):
        return ScaledELU(activation.alpha, scale)
    return RowSnake(activation) if isinstance(activation, Snake) else activation


class Activation(Layer):
    """Activation that no convolution follows."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.width = 0
        self.obstacle = _obstacle(activation)
        self.local = not self.obstacle

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """See `Layer`."""
        return start, stop

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """See `Layer`."""
        return padded(x, 0, 0, 'constant', self.activation, owned)[:, :, 0]


class _Convolution(Layer):
    """What convolutions have in common.

    Attributes:
        kernel: computes the convolution.
        activation: applied first.
    """

    kernel: Kernel | Product | GroupedTranspose
    activation: nn.Module | None

    def use_product(self) -> Product | None:
        """Compute by a `Product` from now on and return it; None if that is not possible."""
        if isinstance(self.kernel, Kernel) and self.kernel.groups == 1:
            self.kernel = Product(self.kernel)
        return self.kernel if isinstance(self.kernel, Product) else None


class Conv(_Convolution):
    """`StreamableConv1d` with the activation before it.

    Args:
        source: the convolution, with its weight folded.
        activation: applied first.
        scale: factor of the signals.
    """

    def __init__(
        self, source: StreamableConv1d, activation: nn.Module | None, scale: float
    ) -> None:
        super().__init__()
        conv = source.conv.conv
        self.stride = conv.stride[0]
        bias = None if conv.bias is None else conv.bias * scale
        self.kernel = make_kernel(conv.weight, bias, self.stride, conv.dilation[0], conv.groups)
        self.covered = source.padding_total + self.stride  # frames covered by the dilated kernel
        self.pad_mode = source.pad_mode
        self.left = source.padding_total - (0 if source.causal else source.padding_total // 2)
        self.activation = activation
        self.norm = source.conv.norm
        self.width = conv.out_channels
        self.obstacle = _obstacle(activation, self.norm, self.pad_mode)
        self.local = not self.obstacle and self.kernel.weight.numel() <= _WEIGHTS

    def frames(self, length: int) -> int:
        """See `Layer`."""
        return -(-length // self.stride)

    def needs(self, stop: int) -> int:
        """See `Layer`."""
        if self.pad_mode == 'reflect':  # it repeats inputs up to the one number `left`
            stop = max(stop, 1 - (self.covered - 2 * self.left - 1) // self.stride)
        return self.reads(0, stop)[1]

    def ready(self, known: int) -> int:
        """See `Layer`."""
        if known < self.needs(1):
            return 0
        return (known + self.left - self.covered) // self.stride + 1

    def repeats(self) -> int:
        """See `Layer`."""
        return self.covered - self.left if self.pad_mode == 'reflect' else 0

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """See `Layer`."""
        return start * self.stride - self.left, (stop - 1) * self.stride - self.left + self.covered

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """See `Layer`."""
        left, right = self._padding(x, start, stop, length)
        # x contains the samples that the padding repeats
        assert self.pad_mode != 'reflect' or x.shape[-1] > max(left, right) or x.shape[-1] == length
        rows = padded(x, left, right, self.pad_mode, self.activation, owned)
        return self.norm(self.kernel(rows))


class ConvTranspose(_Convolution):
    """`StreamableConvTranspose1d` with the activation before it.

    Sample r of frame t is the sum over j of weight[j * stride + r] times frame t - j.
    """

    def __init__(
        self, source: StreamableConvTranspose1d, activation: nn.Module | None, scale: float
    ) -> None:
        super().__init__()
        conv = source.convtr.convtr
        self.stride = conv.stride[0]
        self.trim = source.trims[0]
        self.missing = sum(source.trims) - (conv.kernel_size[0] - self.stride)  # see trim_odd
        inputs, outputs, kernel_size = conv.weight.shape
        self.reach = -(-kernel_size // self.stride) - 1  # frames before the current one
        self.activation = activation
        self.width = outputs * conv.groups
        self.obstacle = _obstacle(activation)
        self.local = not self.obstacle and conv.weight.numel() <= _WEIGHTS
        weight = F.pad(conv.weight, (0, (self.reach + 1) * self.stride - kernel_size))
        bias = None if conv.bias is None else conv.bias * scale
        if conv.groups > 1:
            self.kernel = GroupedTranspose(weight, bias, self.stride, conv.groups)
            return
        weight = weight.view(inputs, outputs, self.reach + 1, self.stride).flip(2)
        weight = weight.permute(3, 1, 0, 2).reshape(self.stride * outputs, inputs, self.reach + 1)
        self.kernel = make_kernel(weight, None if bias is None else bias.repeat(self.stride))

    def frames(self, length: int) -> int:
        """See `Layer`."""
        return length * self.stride - self.missing

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """See `Layer`."""
        first = (start + self.trim) // self.stride - self.reach
        last = (stop - 1 + self.trim) // self.stride
        return first, last + 1

    def ready(self, known: int) -> int:
        """See `Layer`."""
        return max(0, known * self.stride - self.trim)

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """See `Layer`."""
        left, right = self._padding(x, start, stop, length)
        rows = padded(x, left, right, 'constant', self.activation, owned)
        y = self.kernel(rows).transpose(1, 2)  # [B, frames, stride * width]
        y = y.reshape(len(y), y.shape[1] * self.stride, self.width)
        skipped = (start + self.trim) % self.stride
        return y[:, skipped : skipped + stop - start].transpose(1, 2)


class Block(Layer):
    """`SEANetResnetBlock`, whose last convolution is added to the shortcut in place if possible."""

    def __init__(self, source: SEANetResnetBlock, scale: float) -> None:
        super().__init__()
        branch = channels_last(source.block, scale)
        shortcut = source.shortcut
        self.shortcut = (
            Conv(shortcut, None, scale) if isinstance(shortcut, StreamableConv1d) else None
        )
        last = branch[-1]
        assert isinstance(last, Conv)
        assert last.activation is not None
        self.width = last.width
        self.product: Kernel | None = None
        if (
            self.shortcut is not None
            and last.kernel.is_product
            and isinstance(last.norm, nn.Identity)
        ):
            assert isinstance(last.kernel, Kernel)
            self.product = last.kernel
            assert isinstance(self.shortcut.kernel, Kernel)
            self.shortcut.kernel.bias.add_(self.product.bias)
            branch[-1] = Activation(last.activation)
        self.branch = Chain(branch)
        ways = [self.branch] if self.shortcut is None else [self.branch, self.shortcut]
        self.obstacle = next(filter(None, (way.obstacle for way in ways)), '')
        self.local = all(way.local for way in ways)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """See `Layer`."""
        return self.branch.reads(start, stop)  # includes the frame itself, which the shortcut reads

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """See `Layer`."""
        offset = max(0, self.reads(start, stop)[0])
        skipped = x[..., start - offset : stop - offset]
        if self.shortcut is None:
            return self.branch.part(x, start, stop, length, owned=False).add_(skipped)
        y = self.shortcut.part(skipped, start, stop, length, owned=False)
        x = self.branch.part(x, start, stop, length, owned=False)
        if self.product is None:
            return y.add_(x)
        self.product.add_product(x, onto=y)
        return y


class LSTM(nn.Module):
    """`StreamableLSTM` with oneDNN's kernels."""

    def __init__(self, source: StreamableLSTM, scale: float) -> None:
        super().__init__()
        self.lstm = source.lstm
        self.skip = source.skip
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dimension, T] to [B, dimension, T]."""
        x = x.permute(2, 0, 1)
        y, _ = self.lstm(x / self.scale)
        y = y.mul_(self.scale)
        return (y.add_(x) if self.skip else y).permute(1, 2, 0)


def _obstacle(
    activation: nn.Module | None, norm: nn.Module | None = None, pad_mode: str = 'constant'
) -> str:
    """Return why outputs of a layer depend on the whole signal; empty if they do not."""
    if not isinstance(activation, (*POINTWISE, RowSnake, ScaledELU, type(None))):
        return f'{type(activation).__name__} may depend on the whole signal'
    if not isinstance(norm, nn.Identity | None):
        return f'{type(norm).__name__} averages over the whole signal'
    if pad_mode == 'circular':
        return 'pad_mode=circular repeats the end of the signal before its start'
    return ''
