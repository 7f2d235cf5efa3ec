"""SEANet for CPUs: channels-last convolutions, where oneDNN runs near the peak of the machine.

Tensors stay [B, C, T] with memory [B, T, C]. A transposed convolution of stride s becomes a plain
one with s times the channels per frame: in this layout, these are the s samples of the frame, and
nothing needs to be moved.

Layers with a small receptive field are computed part by part: all layers for one part of the
signal, then for the next. Intermediate tensors are small however long the signal is, and their
memory is reused for the next part; for large tensors, the system would clear every page first. Each
layer states which of its inputs a part of its output `reads`. The result equals that of the whole
signal to float rounding.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.cpu.kernels import LOG2_E, Kernel, ScaledELU, make_kernel, padded
from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.networks.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock

_PART = 2**21  # values of the largest tensor of a part
_OVERLAP = 1 / 8  # largest fraction of a part that is also computed for its neighbor
_WEIGHTS = 2**19  # most weights of a layer computed in parts: they are reordered for each part
_POINTWISE = (ScaledELU, nn.GELU, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Softplus, nn.Tanh)
_SCALABLE = (nn.Conv1d, nn.ConvTranspose1d, nn.ELU, nn.Identity, nn.LSTM)


def for_cpu(model: CompressionModel) -> CompressionModel:
    """See `CompressionModel.for_cpu`."""
    model = model.for_inference()
    for module in model.modules():
        if isinstance(module, SEANetEncoder | SEANetDecoder):
            assert isinstance(module.model, nn.Sequential)
            scale = _scale_of(module.model)
            module.model = _Network(_chained(_channels_last(module.model, scale)), scale)
    return model


class _Network(nn.Sequential):
    """Sequence of layers that reuse memory, with signals multiplied by `scale` between them.

    Args:
        layers: at least one.
        scale: see `_scale_of`.
    """

    def __init__(self, layers: Iterable[nn.Module], scale: float) -> None:
        super().__init__(*layers)
        self.scale = scale

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.scale).div_(self.scale)


def _scale_of(network: nn.Sequential) -> float:
    """Return the factor of the signals in a network: log2(e), so that ELUs can use exp2, or 1.

    Convolutions are linear, so only their biases must be multiplied by it.
    """
    leaves = (module for module in network.modules() if not list(module.children()))
    return LOG2_E if all(isinstance(leaf, _SCALABLE) for leaf in leaves) else 1.0


def _channels_last(layers: nn.Sequential, scale: float) -> list[nn.Module]:
    """Convert layers; an activation is fused with the convolution that follows it."""
    made: list[nn.Module] = []
    activation: nn.Module | None = None
    for layer in layers:
        is_conv = isinstance(layer, StreamableConv1d) or (
            isinstance(layer, StreamableConvTranspose1d)
            and isinstance(layer.convtr.norm, nn.Identity)
        )
        if activation is not None and not is_conv:
            made.append(_Activation(activation))
            activation = None
        if isinstance(layer, StreamableConv1d):
            made.append(_Conv(layer, activation, scale))
            activation = None
        elif is_conv:
            assert isinstance(layer, StreamableConvTranspose1d)
            made.append(_ConvTranspose(layer, activation, scale))
            activation = None
        elif isinstance(layer, SEANetResnetBlock):
            made.append(_Block(layer, scale))
        elif isinstance(layer, StreamableLSTM):
            made.append(_LSTM(layer, scale))
        else:
            activation = ScaledELU(layer.alpha, scale) if isinstance(layer, nn.ELU) else layer
    return made if activation is None else [*made, _Activation(activation)]


def _chained(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers, with runs of consecutive local layers merged into one."""
    chain: list[_Layer] = []
    for layer in layers:
        if isinstance(layer, _Layer) and layer.local:
            chain.append(layer)
            continue
        if chain:
            yield _Chain(chain)
        chain = []
        yield layer
    if chain:
        yield _Chain(chain)


class _Layer(nn.Module):
    """Layer that can compute a part of its output.

    Attributes:
        width: channels of its output, 0 for an activation.
        local: True if computing parts is efficient and exact: an output frame depends only on what
            it `reads`.
    """

    width: int
    local: bool

    def frames(self, length: int) -> int:
        """Return the number of output frames for `length` input frames."""
        return length

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of input frames that the outputs start to stop depend on.

        It may extend before and after the signal, where there is padding.
        """
        raise NotImplementedError

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        """Compute the outputs start to stop.

        Args:
            x: [B, C, T], the input frames that they read, as far as these are in the signal.
            start: first output frame.
            stop: output frame after the last one.
            length: input frames of the whole signal.
            owned: True if x may be overwritten.

        Returns:
            [B, width, stop - start].
        """
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, width, frames(T)]."""
        return self.part(x, 0, self.frames(x.shape[-1]), x.shape[-1], owned=False)

    def _padding(self, x: torch.Tensor, start: int, stop: int, length: int) -> tuple[int, int]:
        """Return the padding before and after the signal that outputs read; arguments as `part`."""
        first, last = self.reads(start, stop)
        left, right = max(0, -first), max(0, last - length)
        assert x.shape[-1] == min(last, length) - max(first, 0), (x.shape, first, last, length)
        # x contains the samples that the padding repeats
        assert x.shape[-1] > max(left, right) or x.shape[-1] == length
        return left, right


class _Chain(_Layer):
    """Sequence of layers, computed part by part.

    Args:
        layers: at least one.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.width = self._each()[-1].width
        self.local = all(layer.local for layer in self._each())

    def _each(self) -> list[_Layer]:
        return list(cast(Iterable[_Layer], self.layers))

    def _lengths(self, length: int) -> list[int]:
        """Return the numbers of frames before the first layer and after each layer."""
        lengths = [length]
        for layer in self._each():
            lengths.append(layer.frames(lengths[-1]))
        return lengths

    def frames(self, length: int) -> int:
        return self._lengths(length)[-1]

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        for layer in reversed(self._each()):
            start, stop = layer.reads(start, stop)
        return start, stop

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        layers = self._each()
        lengths = self._lengths(length)
        offset = max(0, self.reads(start, stop)[0])
        bounds = [(start, stop)]  # of the last layer's output, then of each layer's input, backward
        for layer, frames in zip(reversed(layers), reversed(lengths[:-1])):
            start, stop = layer.reads(start, stop)
            start, stop = max(0, start), min(frames, stop)
            bounds.append((start, stop))
        # less than `reads` says, because layers in between pad
        x = x[..., start - offset : stop - offset]
        for layer, frames, (start, stop) in zip(layers, lengths, bounds[-2::-1]):
            x = layer.part(x, start, stop, frames, owned)
            owned = True
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, width, frames(T)]."""
        lengths = self._lengths(x.shape[-1])
        values = max(1, *(layer.width * frames for layer, frames in zip(self._each(), lengths[1:])))
        first, last = self.reads(0, 1)
        count = max(1, min(math.ceil(values / _PART), int(_OVERLAP * lengths[0] / (last - first))))
        bounds = [index * lengths[-1] // count for index in range(count + 1)]
        y: torch.Tensor | None = None
        size = max(1, _PART // values)
        for item, (start, stop) in product(range(0, len(x), size), pairwise(bounds)):
            first, last = self.reads(start, stop)
            part = self.part(
                x[item : item + size, :, max(0, first) : last], start, stop, lengths[0], owned=False
            )
            y = part.new_empty(len(x), lengths[-1], part.shape[1]) if y is None else y
            y[item : item + size, start:stop] = part.transpose(1, 2)
        assert y is not None
        return y.transpose(1, 2)


class _Activation(_Layer):
    """Activation that no convolution follows."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.width = 0
        self.local = isinstance(activation, _POINTWISE)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return start, stop

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        return padded(x, 0, 0, 'constant', self.activation, owned)[:, :, 0]


class _Conv(_Layer):
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
        self.local = _is_local(self.kernel, activation) and (
            self.pad_mode != 'circular' and isinstance(self.norm, nn.Identity)
        )

    def frames(self, length: int) -> int:
        return math.ceil(length / self.stride)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return start * self.stride - self.left, (stop - 1) * self.stride - self.left + self.covered

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        left, right = self._padding(x, start, stop, length)
        rows = padded(x, left, right, self.pad_mode, self.activation, owned)
        return self.norm(self.kernel(rows))


class _ConvTranspose(_Layer):
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
        weight = F.pad(conv.weight, (0, (self.reach + 1) * self.stride - kernel_size))
        weight = weight.view(inputs, outputs, self.reach + 1, self.stride).flip(2)
        weight = weight.permute(3, 1, 0, 2).reshape(self.stride * outputs, inputs, self.reach + 1)
        self.kernel = make_kernel(
            weight, None if conv.bias is None else conv.bias.repeat(self.stride) * scale
        )
        self.activation = activation
        self.width = outputs
        self.local = _is_local(self.kernel, activation)

    def frames(self, length: int) -> int:
        return length * self.stride - self.missing

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        first = (start + self.trim) // self.stride - self.reach
        last = (stop - 1 + self.trim) // self.stride
        return first, last + 1

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
        left, right = self._padding(x, start, stop, length)
        rows = padded(x, left, right, 'constant', self.activation, owned)
        y = self.kernel(rows).transpose(1, 2)  # [B, frames, stride * width]
        y = y.reshape(len(y), y.shape[1] * self.stride, self.width)
        skipped = (start + self.trim) % self.stride
        return y[:, skipped : skipped + stop - start].transpose(1, 2)


class _Block(_Layer):
    """`SEANetResnetBlock`, whose last convolution is added to the shortcut in place if possible."""

    def __init__(self, source: SEANetResnetBlock, scale: float) -> None:
        super().__init__()
        branch = _channels_last(source.block, scale)
        shortcut = source.shortcut
        self.shortcut = (
            _Conv(shortcut, None, scale) if isinstance(shortcut, StreamableConv1d) else None
        )
        last = branch[-1]
        assert isinstance(last, _Conv)
        assert last.activation is not None
        self.width = last.width
        self.product: Kernel | None = None
        if (
            self.shortcut is not None
            and last.kernel.is_product
            and isinstance(last.norm, nn.Identity)
        ):
            self.product = last.kernel
            self.shortcut.kernel.bias.add_(self.product.bias)
            branch[-1] = _Activation(last.activation)
        self.branch = _Chain(branch)
        self.local = self.branch.local and (self.shortcut is None or self.shortcut.local)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return self.branch.reads(start, stop)  # includes the frame itself, which the shortcut reads

    def part(
        self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool
    ) -> torch.Tensor:
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


class _LSTM(nn.Module):
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


def _is_local(kernel: Kernel, activation: nn.Module | None) -> bool:
    return kernel.weight.numel() <= _WEIGHTS and isinstance(activation, (*_POINTWISE, type(None)))
