"""SEANet for a CPU: every convolution with the channels last in memory, where oneDNN runs near the machine's peak.

Tensors stay [B, C, T] with memory [B, T, C]. A transposed convolution of stride s becomes a plain one that gives s
times the channels per frame: in this layout these are the s samples of the frame, without moving anything.

Layers that read only some frames around each of their own are computed part by part, all of them for one part of the
signal and then for the next: what lies between two layers is small however long the signal is, and its memory is used
again for the next part, where the system would first clear every page of a large tensor. Each layer says which of its
inputs a part of its output `reads`. Parts give what the whole gives, to float rounding.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d, pad1d
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock

from .base import CompressionModel

_PART = 2**21  # values of the largest tensor of a part
_OVERLAP = 1 / 8  # of a part, at most, is computed for its neighbour as well
_WEIGHTS = 2**19  # of a layer that is computed in parts, at most: oneDNN lays them out anew for each
_CACHED = 2**19  # values that stay in the cache of a core from one operator to the next
_LOG2_E = 1 / math.log(2)
_POINTWISE = (nn.ELU, nn.GELU, nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Softplus, nn.Tanh)


def for_cpu(model: CompressionModel) -> CompressionModel:
    """See `CompressionModel.for_cpu`."""
    model = model.for_inference()
    for module in model.modules():
        if isinstance(module, SEANetEncoder | SEANetDecoder):
            assert isinstance(module.model, nn.Sequential)
            module.model = _WithoutGradient(*_chained(_channels_last(module.model)))
    return model


class _WithoutGradient(nn.Sequential):
    """Layers that overwrite what they no longer need."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def _channels_last(layers: nn.Sequential) -> list[nn.Module]:
    """The layers of a network or of a residual block's branch, an activation and the convolution behind it in one."""
    made: list[nn.Module] = []
    activation: nn.Module | None = None
    for layer in layers:
        is_conv = isinstance(layer, StreamableConv1d) or (
            isinstance(layer, StreamableConvTranspose1d) and isinstance(layer.convtr.norm, nn.Identity))
        if activation is not None and not is_conv:
            made.append(_Activation(activation))
            activation = None
        if isinstance(layer, StreamableConv1d):
            made.append(_Conv(layer, activation))
            activation = None
        elif is_conv:
            assert isinstance(layer, StreamableConvTranspose1d)
            made.append(_ConvTranspose(layer, activation))
            activation = None
        elif isinstance(layer, SEANetResnetBlock):
            made.append(_Block(layer))
        elif isinstance(layer, StreamableLSTM):
            made.append(_LSTM(layer))
        else:
            activation = layer
    return made if activation is None else [*made, _Activation(activation)]


def _chained(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers, local ones that follow each other in one."""
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
    """A layer that can compute a part of its output.

    Attributes:
        width: channels of its output, 0 for an activation.
        local: whether parts are worth it, and give what the whole gives: an output frame depends only on what it reads.
    """

    width: int
    local: bool

    def frames(self, length: int) -> int:
        """Frames out for `length` frames in."""
        return length

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """First input frame that the outputs start to stop depend on, and the one behind the last.

        They may lie before and behind the signal, where there is padding.
        """
        raise NotImplementedError

    def part(self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool) -> torch.Tensor:
        """Outputs start to stop.

        Args:
            x: [B, C, T], those of the frames which they read that are in the signal.
            start: first frame out.
            stop: frame behind the last one.
            length: frames of the signal.
            owned: whether x may be overwritten.

        Returns:
            [B, width, stop - start].
        """
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, width, frames(T)]."""
        return self.part(x, 0, self.frames(x.shape[-1]), x.shape[-1], owned=False)

    def _padding(self, x: torch.Tensor, start: int, stop: int, length: int) -> tuple[int, int]:
        """Frames before and behind the signal that the outputs start to stop read; arguments as in `part`."""
        first, last = self.reads(start, stop)
        left, right = max(0, -first), max(0, last - length)
        assert x.shape[-1] == min(last, length) - max(first, 0), (x.shape, first, last, length)
        assert x.shape[-1] > max(left, right) or x.shape[-1] == length  # what is repeated is there
        return left, right


class _Chain(_Layer):
    """Layers one after the other, computed part by part.

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
        """Frames before the first layer and behind each."""
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

    def part(self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool) -> torch.Tensor:
        layers, lengths = self._each(), self._lengths(length)
        offset = max(0, self.reads(start, stop)[0])
        bounds = [(start, stop)]  # of the last layer's output, and then of each layer's input
        for layer, frames in zip(reversed(layers), reversed(lengths[:-1])):
            start, stop = layer.reads(start, stop)
            start, stop = max(0, start), min(frames, stop)
            bounds.append((start, stop))
        x = x[..., start - offset:stop - offset]  # less than `reads` says, where layers pad between them
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
            part = self.part(x[item:item + size, :, max(0, first):last], start, stop, lengths[0], owned=False)
            y = part.new_empty(len(x), lengths[-1], part.shape[1]) if y is None else y
            y[item:item + size, start:stop] = part.transpose(1, 2)
        assert y is not None
        return y.transpose(1, 2)


class _Activation(_Layer):
    """An activation with no convolution behind it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.width = 0
        self.local = isinstance(activation, _POINTWISE)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return start, stop

    def part(self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool) -> torch.Tensor:
        return self.activation(x)


class _Conv(_Layer):
    """`StreamableConv1d` with the activation before it.

    Args:
        source: the convolution, its weight folded.
        activation: applied first.
    """

    def __init__(self, source: StreamableConv1d, activation: nn.Module | None) -> None:
        super().__init__()
        conv = source.conv.conv
        self.weight = _frozen(conv.weight[:, :, None].contiguous(memory_format=torch.channels_last))
        self.bias = conv.bias
        self.stride, self.dilation, self.groups = conv.stride[0], conv.dilation[0], conv.groups
        self.covered, self.pad_mode = source.padding_total + self.stride, source.pad_mode
        self.left = source.padding_total - (0 if source.causal else source.padding_total // 2)
        self.activation, self.norm = activation, source.conv.norm
        self.width = conv.out_channels
        self.local = _is_local(self.weight, activation) and (
            self.pad_mode != 'circular' and isinstance(self.norm, nn.Identity))

    def frames(self, length: int) -> int:
        return math.ceil(length / self.stride)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return start * self.stride - self.left, (stop - 1) * self.stride - self.left + self.covered

    def part(self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool) -> torch.Tensor:
        left, right = self._padding(x, start, stop, length)
        rows = _padded(x, left, right, self.pad_mode, self.activation, owned)
        y = _convolved(rows, self.weight, self.bias, self.stride, self.dilation, self.groups)
        return self.norm(y[:, :, 0])


class _ConvTranspose(_Layer):
    """`StreamableConvTranspose1d` with the activation before it.

    Sample r of frame t is the sum over j of weight[j * stride + r] times frame t - j.
    """

    def __init__(self, source: StreamableConvTranspose1d, activation: nn.Module | None) -> None:
        super().__init__()
        conv = source.convtr.convtr
        self.stride, self.trim = conv.stride[0], source.trims[0]
        inputs, outputs, kernel_size = conv.weight.shape
        self.reach = -(-kernel_size // self.stride) - 1  # frames before the current one
        weight = F.pad(conv.weight, (0, (self.reach + 1) * self.stride - kernel_size))
        weight = weight.view(inputs, outputs, self.reach + 1, self.stride).flip(2)
        weight = weight.permute(3, 1, 0, 2).reshape(self.stride * outputs, inputs, 1, self.reach + 1)
        self.weight = _frozen(weight.contiguous(memory_format=torch.channels_last))
        self.bias = None if conv.bias is None else _frozen(conv.bias.repeat(self.stride))
        self.activation = activation
        self.width = outputs
        self.local = _is_local(self.weight, activation)

    def frames(self, length: int) -> int:
        return length * self.stride

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return (start + self.trim) // self.stride - self.reach, (stop - 1 + self.trim) // self.stride + 1

    def part(self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool) -> torch.Tensor:
        left, right = self._padding(x, start, stop, length)
        rows = _padded(x, left, right, 'constant', self.activation, owned)
        y = _convolved(rows, self.weight, self.bias)[:, :, 0].transpose(1, 2)  # [B, frames, stride * width]
        y = y.reshape(len(y), y.shape[1] * self.stride, self.width)
        skipped = (start + self.trim) % self.stride
        return y[:, skipped:skipped + stop - start].transpose(1, 2)


class _Block(_Layer):
    """`SEANetResnetBlock`."""

    def __init__(self, source: SEANetResnetBlock) -> None:
        super().__init__()
        self.branch = _Chain(_channels_last(source.block))
        shortcut = source.shortcut
        self.shortcut = _Conv(shortcut, None) if isinstance(shortcut, StreamableConv1d) else None
        self.width = self.branch.width
        self.local = self.branch.local and (self.shortcut is None or self.shortcut.local)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        return self.branch.reads(start, stop)  # as the shortcut, the frame itself, and others around it

    def part(self, x: torch.Tensor, start: int, stop: int, length: int, owned: bool) -> torch.Tensor:
        y = self.branch.part(x, start, stop, length, owned=False)
        offset = max(0, self.reads(start, stop)[0])
        x = x[..., start - offset:stop - offset]
        return y.add_(x if self.shortcut is None else self.shortcut.part(x, start, stop, length, owned=False))


class _LSTM(nn.Module):
    """`StreamableLSTM` by oneDNN's kernels."""

    def __init__(self, source: StreamableLSTM) -> None:
        super().__init__()
        self.lstm, self.skip = source.lstm, source.skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dimension, T] to [B, dimension, T]."""
        x = x.permute(2, 0, 1)
        y, _ = self.lstm(x)
        return (y.add_(x) if self.skip else y).permute(1, 2, 0)


def _is_local(weight: torch.Tensor, activation: nn.Module | None) -> bool:
    return weight.numel() <= _WEIGHTS and isinstance(activation, (*_POINTWISE, type(None)))


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _convolved(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int = 1, dilation: int = 1,
               groups: int = 1) -> torch.Tensor:
    """`F.conv2d` along rows, by oneDNN: with one thread, PyTorch does kernels of 1 otherwise, three times slower."""
    if torch.backends.mkldnn.is_available() and rows.dtype == torch.float32:
        return torch.mkldnn_convolution(rows, weight, bias, (0, 0), (1, stride), (1, dilation), groups)
    return F.conv2d(rows, weight, bias, (1, stride), 0, (1, dilation), groups)


def _padded(x: torch.Tensor, left: int, right: int, mode: str, activation: nn.Module | None,
            owned: bool) -> torch.Tensor:
    """`pad1d(activation(x))` of x [B, C, T] as [B, C, 1, left + T + right], channels last."""
    length = x.shape[-1]
    elu = activation if isinstance(activation, nn.ELU) else None
    if elu is None:
        x = x if activation is None else activation(x)
    elif left == right == 0 or length <= max(left, right):
        x = x.transpose(1, 2)
        x = _elu(x, elu.alpha, out=x if owned else torch.empty_like(x)).transpose(1, 2)
    if length <= max(left, right):  # what is repeated is not all there
        x = pad1d(x, (left, right), mode)
        left = right = 0
    if left == right == 0:
        rows = x.transpose(1, 2).flatten().view(len(x), -1, x.shape[1])
        return rows.transpose(1, 2).unsqueeze(2)
    rows = x.new_empty(len(x), left + length + right, x.shape[1])
    middle = rows[:, left:left + length]
    if elu is None:
        middle.copy_(x.transpose(1, 2))
    else:
        _elu(x.transpose(1, 2), elu.alpha, out=middle)  # instead of a copy
    before, after = _around(middle, left, right, mode)
    rows[:, :left], rows[:, left + length:] = before, after
    return rows.transpose(1, 2).unsqueeze(2)


def _elu(x: torch.Tensor, alpha: float, out: torch.Tensor) -> torch.Tensor:
    """ELU of x [B, T, C], into `out`, which may be x.

    PyTorch's takes twice as long as an exponential, and that twice as long as a power of two, for relative precision
    close to zero. This one's error is that of the one subtracted: 6e-8. For alpha up to 1, the exponential lies above
    the line where x is negative.
    """
    if alpha > 1:
        return torch.ops.aten.elu.out(x, alpha, out=out)
    frames = max(1, torch.get_num_threads() * _CACHED // (len(x) * x.shape[2]))
    for part, y in zip(x.split(frames, 1), out.split(frames, 1)):
        exponential = torch.clamp(part, max=0, out=None if out is x else y).mul_(_LOG2_E).exp2_().sub_(1)
        torch.maximum(part, exponential if alpha == 1 else exponential.mul_(alpha), out=y)
    return out


def _around(x: torch.Tensor, left: int, right: int, mode: str) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """What `mode` puts before and after x [B, T, C]."""
    length = x.shape[1]
    if mode == 'reflect':
        return x[:, 1:left + 1].flip(1), x[:, length - 1 - right:length - 1].flip(1)
    if mode == 'replicate':
        return x[:, :1], x[:, -1:]
    if mode == 'circular':
        return x[:, length - left:], x[:, :right]
    return 0.0, 0.0
