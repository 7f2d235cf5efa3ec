"""Fast CPU kernels for signals in channels-last memory: convolutions and ELU; no gradients."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.modules.conv import pad1d
from audiocodec.modules.snake import Snake, snake

LOG2_E = 1 / math.log(2)
_FEW = 2  # output channels of audio
_PAIRED = 2**18  # weights above which the products that `Pairs` saves outweigh its additions
# matrix products are as fast as convolutions with AVX2, but not with AVX-512
_PRODUCTS = torch.backends.cpu.get_cpu_capability() == 'AVX2'
_CACHED = 2**19  # values that stay in the cache of a core from one operator to the next


def make_kernel(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> 'Kernel':
    """Return the fastest `Kernel` for a convolution on this CPU."""
    kind = Kernel
    if stride == groups == 1 and len(weight) <= _FEW:
        kind = FewOutputs
    elif (
        _PRODUCTS
        and weight.shape[2] == 2 * stride
        and dilation == groups == 1
        and weight.numel() >= _PAIRED
    ):
        kind = Pairs
    return kind(weight, bias, stride, dilation, groups)


class Kernel(nn.Module):
    """Convolution by oneDNN.

    Called explicitly, because with one thread PyTorch computes convolutions of kernel size 1
    without oneDNN, three times slower.

    Args:
        weight: [O, C / groups, K].
        bias: [O] or None.
        stride: as in `F.conv1d`.
        dilation: as in `F.conv1d`.
        groups: as in `F.conv1d`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.weight = nn.Parameter(self._laid_out(weight.detach(), stride), requires_grad=False)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.outputs, _, self.taps = weight.shape
        self.stride = stride
        self.dilation = dilation
        self.groups = groups

    @staticmethod
    def _laid_out(weight: torch.Tensor, stride: int) -> torch.Tensor:
        return weight[:, :, None].contiguous(memory_format=torch.channels_last)

    @property
    def is_product(self) -> bool:
        """True if `add_product` is possible and fast."""
        return _PRODUCTS and type(self) is Kernel and self.taps == self.stride == self.groups == 1

    def add_product(self, x: torch.Tensor, onto: torch.Tensor) -> None:
        """Add the output for x [B, C, T], without the bias, to `onto` [B, O, T] in place."""
        assert self.is_product
        for item, out in zip(x.transpose(1, 2), onto.transpose(1, 2)):
            torch.addmm(out, item, self.weight[:, :, 0, 0].t(), out=out)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Map [B, C, 1, T], channels last, to [B, O, T']."""
        if torch.backends.mkldnn.is_available() and rows.dtype == torch.float32:
            y = torch.mkldnn_convolution(
                rows,
                self.weight,
                self.bias,
                (0, 0),
                (1, self.stride),
                (1, self.dilation),
                self.groups,
            )
        else:
            y = F.conv2d(
                rows, self.weight, self.bias, (1, self.stride), 0, (1, self.dilation), self.groups
            )
        return y[:, :, 0]

    def matrix(self) -> torch.Tensor:
        """Return the weight as [O, K * C]."""
        return self.weight[:, :, 0].transpose(1, 2).reshape(self.outputs, -1)


class FewOutputs(Kernel):
    """Convolution with few outputs: one matrix product for all taps, then sums over the taps.

    A convolution kernel vectorized over output channels would leave most of a vector empty.
    """

    @staticmethod
    def _laid_out(weight: torch.Tensor, stride: int) -> torch.Tensor:
        return weight.permute(2, 0, 1).flatten(0, 1)  # [K * O, C]

    def matrix(self) -> torch.Tensor:
        """Return the weight as [O, K * C]."""
        return self.weight.unflatten(0, (self.taps, -1)).transpose(0, 1).flatten(1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Map [B, C, 1, T], channels last, to [B, O, T']."""
        products = (self.weight @ rows[:, :, 0]).unflatten(1, (self.taps, self.outputs))
        frames = rows.shape[-1] - self.dilation * (self.taps - 1)
        y = products[:, 0, :, :frames].add_(self.bias[:, None])
        for tap in range(1, self.taps):
            y += products[:, tap, :, tap * self.dilation :][..., :frames]
        return y


class Pairs(Kernel):
    """Strided convolution that computes two outputs with three products instead of four.

    A kernel of twice the stride is two taps g on blocks d of `stride` frames. Two outputs are
    d0 g0 + d1 g1 and d1 g0 + d2 g1, which equal m + (d0 - d1) g0 and m - (d1 - d2) g1 with
    m = d1 (g0 + g1). This is Winograd's F(2, 2), as described by Lavin and Gray (arXiv 1509.09308).
    """

    @staticmethod
    def _laid_out(weight: torch.Tensor, stride: int) -> torch.Tensor:
        first, second = (half.permute(2, 1, 0).flatten(0, 1) for half in weight.split(stride, 2))
        return torch.stack([first, first + second, second])  # [3, stride * C, O]

    def matrix(self) -> torch.Tensor:
        """Return the weight as [O, K * C]."""
        return torch.cat([self.weight[0], self.weight[2]]).t()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Map [B, C, 1, T], channels last, to [B, O, T']."""
        blocks = rows[:, :, 0].transpose(1, 2).unflatten(1, (-1, self.stride)).flatten(2)
        y = rows.new_empty(len(rows), blocks.shape[1] - 1, self.outputs)
        for item, out in zip(blocks, y):
            differences = item[:-1] - item[1:]
            both = torch.addmm(self.bias, item[1::2], self.weight[1])
            torch.addmm(both, differences[::2], self.weight[0], out=out[::2])
            torch.addmm(
                both[: len(out) // 2], differences[1::2], self.weight[2], alpha=-1, out=out[1::2]
            )
        return y.transpose(1, 2)


class GroupedTranspose(nn.Module):
    """Transposed convolution with groups, for frames that are known with those before them.

    Args:
        weight: [C, O / groups, (1 + F) * stride], for F frames before the current one.
        bias: [O] or None.
        stride: outputs per frame.
        groups: as in `F.conv_transpose1d`.
    """

    is_product = False

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, groups: int
    ) -> None:
        super().__init__()
        bias = weight.new_zeros(weight.shape[1] * groups) if bias is None else bias
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.stride = stride
        self.groups = groups

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Map [B, C, 1, F + T], channels last, to [B, stride * O, T]."""
        x = rows[:, :, 0]
        y = F.conv_transpose1d(x, self.weight, self.bias, self.stride, groups=self.groups)
        before = self.weight.shape[2] - self.stride
        y = y[..., before : x.shape[2] * self.stride].transpose(1, 2)
        return y.reshape(y.shape[0], -1, self.stride * y.shape[2]).transpose(1, 2)


class ScaledELU(nn.Module):
    """ELU of values that are multiplied by `scale`; with log2(e), exp becomes exp2.

    PyTorch's ELU takes twice as long as exp, which takes twice as long as exp2, because it keeps
    the relative precision near zero. The error of this one is that of subtracting 1: 6e-8. For
    alpha up to 1, alpha (exp(x) - 1) >= x for all negative x, so that a maximum selects the branch.

    Args:
        alpha: alpha of the ELU.
        scale: factor of the values.
    """

    offset: torch.Tensor

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.scale = scale
        offset = torch.tensor(-alpha * scale, dtype=torch.float64)
        self.register_buffer('offset', offset, persistent=False)
        self.factor = alpha * scale

    def forward(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Map x [B, T, C], into `out` if given, which may be x."""
        if self.alpha > 1:
            out = torch.empty_like(x) if out is None else out
            return torch.ops.aten.elu.out(x, self.factor, 1, 1 / self.scale, out=out)
        # in parts that stay in the cache between the operators
        frames = torch.get_num_threads() * _CACHED // (x.shape[0] * x.shape[2])
        if x.shape[1] <= frames:
            return self._activate(x, out)
        out = torch.empty_like(x) if out is None else out
        for part, y in zip(x.split(max(1, frames), 1), out.split(max(1, frames), 1)):
            self._activate(part, part if out is x else y)
        return out

    def _activate(self, x: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
        """Map x [B, T, C], into `out` if given, which may be x."""
        power = torch.clamp(x, max=0, out=None if out is x else out)
        if self.scale != LOG2_E:
            power.mul_(LOG2_E / self.scale)
        torch.add(self.offset, power.exp2_(), alpha=self.factor, out=power)
        return torch.maximum(x, power, out=power if out is None else out)


class RowSnake(nn.Module):
    """`Snake` of values [B, T, C]."""

    def __init__(self, source: Snake) -> None:
        super().__init__()
        self.alpha = nn.Parameter(source.alpha.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Map x [B, T, C], into `out` if given, which may be x."""
        out = torch.empty_like(x) if out is None else out
        return snake(x.transpose(1, 2), self.alpha, out.transpose(1, 2)).transpose(1, 2)


def padded(
    x: torch.Tensor, left: int, right: int, mode: str, activation: nn.Module | None, owned: bool
) -> torch.Tensor:
    """Apply an activation, pad, and lay out the input of a `Kernel`.

    Args:
        x: [B, C, T].
        left: frames of padding before it.
        right: frames of padding after it.
        mode: mode of `pad1d`.
        activation: applied before the padding, or None.
        owned: True if x may be overwritten.

    Returns:
        `pad1d(activation(x))` as [B, C, 1, left + T + right], channels last.
    """
    length = x.shape[-1]
    rowwise = activation if isinstance(activation, ScaledELU | RowSnake) else None
    if rowwise is None:
        x = x if activation is None else activation(x)
    elif left == right == 0 or length <= max(left, right):
        x = x.transpose(1, 2)
        x = rowwise(x, out=x if owned else None).transpose(1, 2)
    if length <= max(left, right):  # too short to be padded by its own samples
        x = pad1d(x, (left, right), mode)
        left = right = 0
    if left == right == 0:
        rows = x.transpose(1, 2).flatten().view(len(x), -1, x.shape[1])
        return rows.transpose(1, 2).unsqueeze(2)
    rows = x.new_empty(len(x), left + length + right, x.shape[1])
    middle = rows[:, left : left + length]
    if rowwise is None:
        middle.copy_(x.transpose(1, 2))
    else:
        rowwise(x.transpose(1, 2), out=middle)  # saves a copy
    before, after = _around(middle, left, right, mode)
    rows[:, :left] = before
    rows[:, left + length :] = after
    return rows.transpose(1, 2).unsqueeze(2)


def _around(
    x: torch.Tensor, left: int, right: int, mode: str
) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """Return the padding before and after x [B, T, C]."""
    length = x.shape[1]
    if mode == 'reflect':
        return x[:, 1 : left + 1].flip(1), x[:, length - 1 - right : length - 1].flip(1)
    if mode == 'replicate':
        return x[:, :1], x[:, -1:]
    if mode == 'circular':
        return x[:, length - left :], x[:, :right]
    return 0.0, 0.0
