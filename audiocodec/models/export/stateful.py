"""Layers of causal codecs as functions of a chunk and a state, which return the next state.

A chunk has whole frames only, so that a causal layer depends on the inputs of the chunk and on the
last inputs before it, which are its state. Where a signal starts with the chunk, the padding before
the signal takes their place.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.models.export import program
from audiocodec.modules import StreamableConv1d, StreamableConvTranspose1d, StreamableLSTM
from audiocodec.modules.activation import POINTWISE
from audiocodec.modules.networks.seanet import SEANetDecoder, SEANetEncoder, SEANetResnetBlock
from audiocodec.modules.snake import Snake
from audiocodec.modules.transformer.codec import TransformerDecoder, TransformerEncoder
from audiocodec.modules.transformer.layers import (
    Past,
    Transformer,
    WindowedAttention,
    rotate,
    rotation_of,
)


@dataclass
class Memory:
    """The state of all layers while a chunk passes through them, in their order.

    Attributes:
        frames: frames of codes in a chunk.
        first: bool [B], the items whose signal starts with this chunk; None: all.
        states: one per name, [B, ...], from the chunk before; None if all items start.
        names: of the states so far.
        kept: states for the next chunk so far.
        needed: frames of codes that a chunk needs at least, for the layers so far.
    """

    frames: int
    first: torch.Tensor | None = None
    states: tuple[torch.Tensor, ...] | None = None
    names: list[str] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    needed: int = 1

    def has(self, needed: int, found: int) -> bool:
        """Return whether a chunk has the inputs that a layer needs, and note if it needs more.

        Args:
            needed: inputs of the layer.
            found: its inputs in this chunk.
        """
        self.needed = max(self.needed, -(-needed * self.frames // found))
        return found >= needed

    def take(self, name: str, start: torch.Tensor) -> torch.Tensor:
        """Return the next state, with `start` [B, ...] for the items that start."""
        self.names.append(name)
        if self.states is None:
            return start
        assert self.first is not None
        first = self.first.view(-1, *[1] * (start.dim() - 1))
        return torch.where(first, start, self.states[len(self.names) - 1])

    def keep(self, state: torch.Tensor) -> None:
        """Add the state that was taken last, for the next chunk."""
        self.kept.append(state.contiguous())

    def extend(self, name: str, start: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the last inputs, as many as in `start`, before the inputs x, and keep the last."""
        length = start.shape[dim]
        if not length:
            return x
        x = torch.cat([self.take(name, start), x], dim)
        self.keep(x.narrow(dim, x.shape[dim] - length, length))
        return x


class _Attention(nn.Module):
    """`WindowedAttention` to the frames of a chunk and those before it.

    Keys are kept as they are before the rotation. Positions count from the first key of the window:
    only their differences matter, and a stream may go on forever.
    """

    def __init__(self, source: WindowedAttention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.context = source.context
        self.in_proj = source.in_proj
        self.out_proj = source.out_proj

    def forward(self, x: torch.Tensor, rotation: torch.Tensor, past: Past) -> torch.Tensor:
        """Map [B, T, D] to [B, T, D].

        Args:
            x: [B, T, D].
            rotation: of the keys, see `rotation_of`.
            past: the `memory`, the `name` of the layer, and the `mask` [B, 1, T, keys].
        """
        projected = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D / heads]
        memory, name = past['memory'], past['name']
        start = k.new_zeros(k.shape[0], k.shape[1], self.context - 1, k.shape[3])
        k = memory.extend(f'{name}_keys', start, k, 2)
        v = memory.extend(f'{name}_values', start, v, 2)
        q = rotate(q, rotation[:, self.context - 1 :])
        k = rotate(k, rotation)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=past['mask'])
        return self.out_proj(y.transpose(1, 2).flatten(2))


class TorchLSTM(nn.Module):
    """`nn.LSTM` without its list of weights, which tracing takes for an assignment."""

    def __init__(self, source: nn.LSTM) -> None:
        super().__init__()
        self.num_layers = source.num_layers
        self.hidden_size = source.hidden_size
        self.names = [name for names in source._all_weights for name in names]
        for name in self.names:
            self.register_buffer(name, getattr(source, name).detach())

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Map [T, B, D] and the state (h, c) [layers, B, D] to the outputs and the next state."""
        weights = [self.get_buffer(name) for name in self.names]
        y, h, c = torch.lstm(x, state, weights, True, self.num_layers, 0.0, False, False, False)
        return y, (h, c)


class OnnxLSTM(nn.Module):
    """`nn.LSTM` as the ONNX operator; see `program.OnnxLSTM`."""

    def __init__(self, source: nn.LSTM) -> None:
        super().__init__()
        self.weights = program.OnnxLSTM(source)
        self.num_layers = source.num_layers
        self.hidden_size = source.hidden_size

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Map [T, B, D] and the state (h, c) [layers, B, D] to the outputs and the next state."""
        lasts: list[list[torch.Tensor]] = [[], []]
        size = self.hidden_size
        for layer in range(self.num_layers):
            weights = [
                self.weights.get_buffer(f'{name}_{layer}') for name in ('input', 'state', 'bias')
            ]
            one = (1, x.shape[1], size)
            y, *found = torch.onnx.ops.symbolic_multi_out(
                'LSTM',
                # the operator takes the lengths of items between the biases and the state
                (x, *weights, None, *(part[layer : layer + 1] for part in state)),
                {'hidden_size': size},
                dtypes=(x.dtype,) * 3,
                shapes=((x.shape[0], 1, x.shape[1], size), one, one),
            )
            x = y.squeeze(1)
            for part, last in zip(lasts, found):
                part.append(last)
        return x, (torch.cat(lasts[0]), torch.cat(lasts[1]))


def cannot(reason: str) -> ValueError:
    """Return the error for a model that needs more than a chunk and a state."""
    return ValueError(
        f'this model cannot stream as a program: {reason}. Export it without stream_frames'
    )


def replaced(module: nn.Module, lstm: type[TorchLSTM | OnnxLSTM]) -> nn.Module:
    """Replace LSTMs and attention, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.LSTM):
            module.add_module(name, lstm(child))
        elif isinstance(child, WindowedAttention):
            module.add_module(name, _Attention(child))
        else:
            replaced(child, lstm)
    return module


def advance(module: nn.Module, x: torch.Tensor, memory: Memory, name: str) -> torch.Tensor:
    """Map a chunk [B, C, T] to the output of a layer or network.

    Args:
        module: computes what it does in training, for the whole signal.
        x: the next inputs.
        memory: has the state of the layers in the order of these calls.
        name: of the module, for the names of its states.

    Raises:
        ValueError: the module needs inputs after the chunk.
    """
    if isinstance(module, StreamableConv1d):
        return _conv(module, x, memory, name)
    if isinstance(module, StreamableConvTranspose1d):
        return _conv_transpose(module, x, memory, name)
    if isinstance(module, StreamableLSTM):
        return _lstm(module, x, memory, name)
    if isinstance(module, Transformer):
        return _transformer(module, x, memory, name)
    if isinstance(module, SEANetResnetBlock):
        shortcut = advance(module.shortcut, x, memory, f'{name}_shortcut')
        return shortcut + advance(module.block, x, memory, f'{name}_block')
    if isinstance(module, (*POINTWISE, nn.Identity, Snake)):
        return module(x)
    for part, inner in _parts(module).items():
        x = advance(inner, x, memory, f'{name}_{part}' if name else part)
    return x


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that a network applies one after the other."""
    if isinstance(module, nn.Sequential):
        return dict(module.named_children())
    names: tuple[str, ...] = ()
    if isinstance(module, SEANetEncoder | SEANetDecoder):
        names = ('model',)
    elif isinstance(module, TransformerEncoder):
        names = ('encoder', 'transformer', 'downsample')
    elif isinstance(module, TransformerDecoder):
        names = ('upsample', 'transformer', 'decoder')
    else:
        raise cannot(f'{type(module).__name__} may depend on the whole signal')
    return {name: getattr(module, name) for name in names}


def _conv(module: StreamableConv1d, x: torch.Tensor, memory: Memory, name: str) -> torch.Tensor:
    """Advance a convolution, whose state is the last inputs."""
    length = module.padding_total
    _check_norm(module.conv.norm)
    if not module.causal and length > 1:
        raise cannot('its encoder or decoder is not causal: frames depend on later ones')
    if module.pad_mode == 'circular':
        raise cannot('pad_mode=circular repeats the end of the signal before its start')
    start = x.new_zeros(x.shape[0], x.shape[1], length)
    if module.pad_mode == 'replicate':
        start = x[..., :1].expand(-1, -1, length)
    elif module.pad_mode == 'reflect' and memory.has(length + 1, x.shape[-1]):
        start = x[..., 1 : length + 1].flip(-1)
    return module.conv(memory.extend(name, start, x, 2))


def _conv_transpose(
    module: StreamableConvTranspose1d, x: torch.Tensor, memory: Memory, name: str
) -> torch.Tensor:
    """Advance a transposed convolution, whose state is the inputs that still add to outputs."""
    _check_norm(module.convtr.norm)
    if module.trims[0]:
        raise cannot(
            'its decoder is not causal, or has a look-ahead (trim_right_ratio below 1): samples '
            'depend on later frames'
        )
    stride, kernel = module.convtr.convtr.stride[0], module.convtr.convtr.kernel_size[0]
    length = -(-kernel // stride) - 1
    frames = x.shape[-1]
    # zeros before the signal add nothing
    x = memory.extend(name, x.new_zeros(x.shape[0], x.shape[1], length), x, 2)
    return module.convtr(x).narrow(-1, length * stride, frames * stride)


def _check_norm(norm: nn.Module) -> None:
    if not isinstance(norm, nn.Identity):
        raise cannot(f'{type(norm).__name__} averages over the whole signal')


def _lstm(module: StreamableLSTM, x: torch.Tensor, memory: Memory, name: str) -> torch.Tensor:
    """Advance an LSTM."""
    x = x.permute(2, 0, 1).contiguous()
    zeros = x.new_zeros(x.shape[1], module.lstm.num_layers, module.lstm.hidden_size)
    h, c = (
        memory.take(f'{name}_{part}', zeros).transpose(0, 1).contiguous()
        for part in ('hidden', 'cell')
    )
    y, state = module.lstm(x, (h, c))
    for part in state:
        memory.keep(part.transpose(0, 1))
    return (y + x if module.skip else y).permute(1, 2, 0).contiguous()


def _transformer(module: Transformer, x: torch.Tensor, memory: Memory, name: str) -> torch.Tensor:
    """Advance a transformer, whose state is the window of each layer and how full it is."""
    frames, before = x.shape[-1], module.context - 1
    seen = memory.take(f'{name}_seen', torch.zeros_like(x[:, 0, 0], dtype=torch.int64))
    memory.keep((seen + frames).clamp(max=before))
    positions = torch.arange(before + frames, device=x.device)
    delay = positions[before:, None] - positions
    mask = (delay >= 0) & (delay < module.context)
    mask = mask & (positions >= before - seen[:, None, None, None])
    size = module.dimension // module.num_heads
    rotation = rotation_of(before + frames, size, module.max_period, x.device)
    x = x.transpose(1, 2).contiguous()
    for index, layer in enumerate(module.layers):
        x = layer(x, rotation, {'memory': memory, 'mask': mask, 'name': f'{name}_{index}'})
    return x.transpose(1, 2).contiguous()
