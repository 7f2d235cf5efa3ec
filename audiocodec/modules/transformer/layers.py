"""Causal transformer with a sliding window, as between the convolutions of Mimi."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.checks import require_int
from audiocodec.modules.reach import Reach

# Keys and values [B, heads, T, D / heads] of the last frames of a layer, by these names; None for
# the start of a signal.
Past = dict[str, Any]


class LayerScale(nn.Module):
    """Learned factor per channel that starts small (CaiT, arXiv 2103.17239).

    Args:
        dimension: number of channels.
        value: initial factor.
    """

    def __init__(self, dimension: int, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dimension,), float(value)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., dimension] to the same shape."""
        return x * self.scale


class Linear(nn.Linear):
    """`torch.nn.Linear` of [B, T, C], exported as one program for all B and T."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [B, T, in_features] to [B, T, out_features]."""
        if torch.compiler.is_exporting():  # F.linear checks whether B and T can be merged
            return torch.bmm(input, self.weight.t().expand(input.shape[0], -1, -1))
        return super().forward(input)


class WindowedAttention(nn.Module):
    """Self-attention to the last `context` frames, the current one included.

    Memory is linear in the number of frames: a long signal is divided into blocks of `context`
    frames, each of which attends to itself and to the block before it.

    Args:
        dimension: channels.
        num_heads: attention heads, a divisor of `dimension`.
        context: frames of the window.
    """

    def __init__(self, dimension: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.context = context
        self.in_proj = Linear(dimension, 3 * dimension, bias=False)  # queries, keys, values
        self.out_proj = Linear(dimension, dimension, bias=False)

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """Map [B, T, D] to [B, T, D].

        Args:
            x: float [B, T, D].
            rotation: see `rotation_of`.
            past: keys and values of the frames before x, which are replaced by those for the frames
                after it; None: x is the whole signal.
        """
        projected = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D / heads]
        q, k = rotate(q, rotation), rotate(k, rotation)
        if past is None:
            y = windowed_attention(q, k, v, self.context)
        else:
            if past['keys'] is not None:
                k, v = torch.cat((past['keys'], k), 2), torch.cat((past['values'], v), 2)
            y = _attention_to_past(q, k, v, self.context)
            first = max(0, k.shape[2] - self.context + 1)
            past['keys'], past['values'] = k[:, :, first:], v[:, :, first:]
        return self.out_proj(y.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Attention and a perceptron with GELU, each after a LayerNorm and added to its input.

    Args:
        dimension: channels.
        num_heads: attention heads.
        hidden_dimension: channels inside the perceptron.
        context: frames of the attention window.
        layer_scale: initial factor of what is added; None: 1, not learned.
    """

    def __init__(
        self,
        dimension: int,
        num_heads: int,
        hidden_dimension: int,
        context: int,
        layer_scale: float | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dimension)
        self.attention = WindowedAttention(dimension, num_heads, context)
        self.norm2 = nn.LayerNorm(dimension)
        self.linear1 = Linear(dimension, hidden_dimension, bias=False)
        self.linear2 = Linear(hidden_dimension, dimension, bias=False)
        self.scale1: nn.Module = nn.Identity()
        self.scale2: nn.Module = nn.Identity()
        if layer_scale is not None:
            self.scale1 = LayerScale(dimension, layer_scale)
            self.scale2 = LayerScale(dimension, layer_scale)

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """Map [B, T, D] to [B, T, D]; see `WindowedAttention.forward`."""
        x = x + self.scale1(self.attention(self.norm1(x), rotation, past))
        return x + self.scale2(self.linear2(F.gelu(self.linear1(self.norm2(x)))))


class Transformer(nn.Module):
    """Causal transformer over frames (Mimi, arXiv 2410.00037, section 3.3.1).

    Frame t depends on the frames from t - num_layers * (context - 1) to t. Positions are relative
    (rotary, arXiv 2104.09864), so that a model works for signals of any length.

    Args:
        dimension: channels of the frames.
        num_layers: layers.
        num_heads: attention heads, a divisor of `dimension`, which leaves each an even number of
            channels.
        hidden_dimension: channels inside the perceptrons; None: 4 * dimension.
        context: frames that a layer attends to, the current one included.
        layer_scale: initial factor of what a layer adds to its input; None: 1, not learned.
        max_period: longest period of the rotary positions, in frames / (2 pi).

    Raises:
        ValueError: an argument out of range.
    """

    causal = True
    initialization_options: ClassVar[frozenset[str]] = frozenset(('layer_scale',))

    def __init__(
        self,
        dimension: int = 512,
        num_layers: int = 8,
        num_heads: int = 8,
        hidden_dimension: int | None = None,
        context: int = 250,
        layer_scale: float | None = 0.01,
        max_period: float = 10000.0,
    ) -> None:
        super().__init__()
        hidden_dimension = 4 * dimension if hidden_dimension is None else hidden_dimension
        for name, value in {
            'dimension': dimension,
            'num_layers': num_layers,
            'num_heads': num_heads,
            'hidden_dimension': hidden_dimension,
            'context': context,
        }.items():
            require_int(name, value)
        if dimension % (2 * num_heads):
            raise ValueError(
                f'num_heads={num_heads}: each head needs an even number of channels, but '
                f'dimension={dimension} is not a multiple of {2 * num_heads}'
            )
        if max_period <= 1:
            raise ValueError(f'max_period={max_period}: expected a number above 1')
        self.dimension = dimension
        self.num_heads = num_heads
        self.context = context
        self.max_period = max_period
        self.layers = nn.ModuleList(
            TransformerLayer(dimension, num_heads, hidden_dimension, context, layer_scale)
            for _ in range(num_layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dimension, T] to [B, dimension, T]."""
        rotation = self._rotation(0, x)
        x = x.transpose(1, 2)
        if torch.compiler.is_exporting():  # it would check the order of strides, which depends on T
            x = x.contiguous()
        for layer in self.layers:
            x = layer(x, rotation)
        return x.transpose(1, 2)

    def advance(self, x: torch.Tensor, position: int, pasts: Sequence[Past]) -> torch.Tensor:
        """Map the next frames of a signal that comes in pieces.

        Args:
            x: [B, dimension, T].
            position: number of frames before x.
            pasts: one per layer; see `WindowedAttention.forward`.

        Returns:
            [B, dimension, T].
        """
        rotation = self._rotation(position, x)
        x = x.transpose(1, 2)
        for layer, past in zip(self.layers, pasts, strict=True):
            x = layer(x, rotation, past)
        return x.transpose(1, 2)

    def _rotation(self, position: int, x: torch.Tensor) -> torch.Tensor:
        size = self.dimension // self.num_heads
        return rotation_of(x.shape[-1], size, self.max_period, x.device, position)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the window of all layers together; see `reach`."""
        return Reach(first - len(self.layers) * (self.context - 1), last)


def rotation_of(
    frames: int, dimension: int, max_period: float, device: torch.device, start: int = 0
) -> torch.Tensor:
    """Return cosines and sines of the rotary positions, float32 [2, frames, dimension / 2].

    Args:
        frames: number of frames.
        dimension: channels of a head.
        max_period: see `Transformer`.
        device: of the result.
        start: position of the first frame.
    """
    exponents = torch.arange(0, dimension, 2, device=device, dtype=torch.float32) / dimension
    positions = torch.arange(start, start + frames, device=device, dtype=torch.float32)
    angles = positions[:, None] / max_period**exponents
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotate channel i of a head with channel i + half, by the position times a frequency.

    Args:
        x: [..., T, D], queries or keys.
        rotation: [2, T, D / 2], see `rotation_of`.
    """
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(x.dtype)


def windowed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, context: int
) -> torch.Tensor:
    """Attend from each frame to the last `context` frames, the current one included.

    Args:
        q: queries, [B, H, T, D].
        k: keys, [B, H, T, D].
        v: values, [B, H, T, D].
        context: frames of the window.

    Returns:
        [B, H, T, D].
    """
    frames = q.shape[2]
    if torch.compiler.is_exporting():  # one program for all lengths
        mask = _band(frames, frames, context, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if frames <= context:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if frames <= 2 * context:
        mask = _band(frames, frames, context, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # The first block has no block before it. The others are items of a batch.
    first = F.scaled_dot_product_attention(
        q[:, :, :context], k[:, :, :context], v[:, :, :context], is_causal=True
    )
    padding = (0, 0, 0, -frames % context)  # after the signal, where no frame attends to
    blocks = F.pad(q[:, :, context:], padding).unflatten(2, (-1, context)).transpose(1, 2)
    y = F.scaled_dot_product_attention(
        blocks.flatten(0, 1),
        _pairs_of_blocks(F.pad(k, padding), context),
        _pairs_of_blocks(F.pad(v, padding), context),
        attn_mask=_band(context, 2 * context, context, q.device),
    )
    y = y.unflatten(0, (len(q), -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, y[:, :, : frames - context]], dim=2)


def _attention_to_past(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, context: int
) -> torch.Tensor:
    """Attend from the last frames [B, H, T, D] to all frames, T or more; as above."""
    frames, keys = q.shape[2], k.shape[2]
    mask = None  # a single frame sees all that is kept
    if frames > 1:
        mask = _band(frames, keys, context, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _pairs_of_blocks(x: torch.Tensor, context: int) -> torch.Tensor:
    """Map n blocks [B, H, n * context, D] to each with the one before, [B * (n - 1), H, ..., D]."""
    return x.unfold(2, 2 * context, context).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _band(queries: int, keys: int, context: int, device: torch.device) -> torch.Tensor:
    """Return which keys the last `queries` of as many frames as keys may see, [queries, keys]."""
    positions = torch.arange(keys, device=device)
    delay = positions[keys - queries :, None] - positions
    return (delay >= 0) & (delay < context)
