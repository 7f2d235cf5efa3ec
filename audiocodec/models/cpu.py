"""SEANet for a CPU: every convolution with the channels last in memory, where oneDNN runs near the machine's peak.

Tensors stay [B, C, T] with memory [B, T, C]. A transposed convolution of stride s becomes a plain one that gives s
times the channels per frame: in this layout these are the s samples of the frame, without moving anything.
"""

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d, pad1d
from audiocodec.modules.lstm import StreamableLSTM
from audiocodec.modules.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock

from .base import CompressionModel

_CACHED = 2**17  # values that stay in the cache of a core from one operator to the next


def for_cpu(model: CompressionModel) -> CompressionModel:
    """See `CompressionModel.for_cpu`."""
    model = model.for_inference()
    for module in model.modules():
        if isinstance(module, SEANetEncoder | SEANetDecoder):
            assert isinstance(module.model, nn.Sequential)
            module.model = _WithoutGradient(*_channels_last(module.model, owned=True))
    return model


class _WithoutGradient(nn.Sequential):
    """Layers that overwrite what they no longer need."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def _channels_last(layers: nn.Sequential, owned: bool) -> list[nn.Module]:
    """The same layers, an activation and the convolution behind it in one.

    Args:
        layers: of a network or of a residual block's branch.
        owned: whether the first of them may overwrite its input.
    """
    made: list[nn.Module] = []
    activation: nn.Module | None = None
    for layer in layers:
        is_conv = isinstance(layer, StreamableConv1d) or (
            isinstance(layer, StreamableConvTranspose1d) and isinstance(layer.convtr.norm, nn.Identity))
        if activation is not None and not is_conv:
            made.append(activation)
            activation = None
        if isinstance(layer, StreamableConv1d):
            made.append(_Conv(layer, activation, owned or bool(made)))
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
    return made if activation is None else [*made, activation]


class _Conv(nn.Module):
    """`StreamableConv1d` with the activation before it.

    Args:
        source: the convolution, its weight folded.
        activation: applied first.
        owned: whether the input may be overwritten.
    """

    def __init__(self, source: StreamableConv1d, activation: nn.Module | None, owned: bool) -> None:
        super().__init__()
        conv = source.conv.conv
        self.weight = _frozen(conv.weight[:, :, None].contiguous(memory_format=torch.channels_last))
        self.bias = conv.bias
        self.stride, self.dilation, self.groups = conv.stride[0], conv.dilation[0], conv.groups
        self.total, self.pad_mode = source.padding_total, source.pad_mode
        self.right = 0 if source.causal else source.padding_total // 2
        self.activation, self.owned, self.norm = activation, owned, source.conv.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, ceil(T / stride)]."""
        left, right = self.total - self.right, self.right + -x.shape[-1] % self.stride
        rows = _padded(x, left, right, self.pad_mode, self.activation, self.owned)
        y = _convolved(rows, self.weight, self.bias, self.stride, self.dilation, self.groups)
        return self.norm(y[:, :, 0])


class _ConvTranspose(nn.Module):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C_in, T] to [B, C_out, T * stride]."""
        rows = _padded(x, self.reach, self.reach, 'constant', self.activation, owned=True)
        y = _convolved(rows, self.weight, self.bias)[:, :, 0].transpose(1, 2)  # [B, T + reach, stride * C_out]
        y = y.reshape(len(y), y.shape[1] * self.stride, -1)
        return y[:, self.trim:self.trim + x.shape[-1] * self.stride].transpose(1, 2)


class _Block(nn.Module):
    """`SEANetResnetBlock`."""

    def __init__(self, source: SEANetResnetBlock) -> None:
        super().__init__()
        self.block = nn.Sequential(*_channels_last(source.block, owned=False))
        shortcut = source.shortcut
        self.shortcut = _Conv(shortcut, None, False) if isinstance(shortcut, StreamableConv1d) else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dim, T] to [B, dim, T]."""
        return self.block(x).add_(self.shortcut(x))


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
        return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
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

    PyTorch's takes twice as long as an exponential, for relative precision close to zero. This one's error is that of
    the one subtracted: 6e-8. For alpha up to 1, the exponential lies above the line where x is negative.
    """
    if alpha > 1:
        return torch.ops.aten.elu.out(x, alpha, out=out)
    frames = max(1, torch.get_num_threads() * _CACHED // (len(x) * x.shape[2]))
    for part, y in zip(x.split(frames, 1), out.split(frames, 1)):
        exponential = torch.clamp(part, max=0, out=None if out is x else y).exp_().sub_(1)
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
