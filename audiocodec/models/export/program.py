"""Encoder and decoder as modules that can be traced for any batch size and length.

They compute the same as the model, in a traceable form: lengths are simple expressions of the input
length, LSTMs are operators instead of loops that tracing would unroll, and values are not checked.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.options import refuse
from audiocodec.modules import StreamableConv1d, StreamableConvTranspose1d, StreamableLSTM


class _Conv(nn.Module):
    """`StreamableConv1d`."""

    def __init__(self, source: StreamableConv1d) -> None:
        super().__init__()
        self.conv = source.conv
        self.stride = source.stride
        self.pad_mode = source.pad_mode
        right = 0 if source.causal else source.padding_total // 2
        self.padding = (source.padding_total - right, right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.padding
        if self.stride > 1:
            frames = (x.shape[-1] + self.stride - 1) // self.stride
            right = right + frames * self.stride - x.shape[-1]
        if self.pad_mode == 'constant':
            return self.conv(F.pad(x, (left, right)))
        return self.conv(_pad_by_index(x, left, right, self.pad_mode))


def _pad_by_index(x: torch.Tensor, left: int, right: int, mode: str) -> torch.Tensor:
    """Pad like `modules.conv.pad1d`, by indexing; includes its zeros for short inputs.

    The padding operators compare the padding with the length, which would specialize the program.
    """
    length = torch.full((), x.shape[-1], dtype=torch.int64, device=x.device)
    indices = torch.arange(x.shape[-1] + left + right, device=x.device) - left
    widest = torch.maximum(torch.full_like(length, left), torch.full_like(length, right))
    if mode == 'reflect':
        completed = torch.maximum(length, widest + 1)
        indices = completed - 1 - (completed - 1 - indices.abs()).abs()
    elif mode == 'circular':
        indices = torch.remainder(indices, torch.maximum(length, widest))
    else:
        assert mode == 'replicate', mode
        indices = torch.minimum(indices.clamp(min=0), length - 1)
    found = x[..., torch.minimum(indices, length - 1)]
    return found * (indices < length).to(x.dtype)


class _ConvTranspose(nn.Module):
    """`StreamableConvTranspose1d`."""

    def __init__(self, source: StreamableConvTranspose1d) -> None:
        super().__init__()
        self.convtr = source.convtr
        self.stride = source.convtr.convtr.stride[0]
        self.left = source.trims[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convtr(x).narrow(-1, self.left, x.shape[-1] * self.stride)


class _GroupNorm(nn.Module):
    """`nn.GroupNorm` with one group, in single steps: onnxruntime's rounds a hundred times more."""

    def __init__(self, source: nn.GroupNorm) -> None:
        super().__init__()
        assert source.num_groups == 1, source
        self.weight = source.weight
        self.bias = source.bias
        self.eps = source.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - self._mean(x)
        x = x * torch.rsqrt(self._mean(x.square()) + self.eps)
        return x if self.weight is None else x * self.weight[:, None] + self.bias[:, None]

    @staticmethod
    def _mean(x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, 1, 1]; in two steps, because long sums accumulate rounding."""
        return x.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


class ScanLSTM(nn.Module):
    """`nn.LSTM` of [T, B, D] with zero state, as the operator `scan`: `nn.LSTM` would fix T."""

    def __init__(self, source: nn.LSTM) -> None:
        super().__init__()
        self.num_layers = source.num_layers
        for layer in range(source.num_layers):
            weights = _lstm_weights(source, layer)
            self.register_buffer(f'input_{layer}', weights[0])
            self.register_buffer(f'state_{layer}', weights[1])
            self.register_buffer(f'bias_{layer}', weights[2] + weights[3])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, B, D] to [T, B, D]."""
        from torch._higher_order_ops.scan import scan  # no public name yet

        for layer in range(self.num_layers):
            # a convolution: F.linear would check whether T and B can be merged, which would
            # specialize the program
            gates = F.conv1d(
                x.permute(1, 2, 0).contiguous(),
                self.get_buffer(f'input_{layer}')[:, :, None],
                self.get_buffer(f'bias_{layer}'),
            )
            gates = gates.permute(2, 0, 1).contiguous()
            weight = self.get_buffer(f'state_{layer}')

            def step(
                state: tuple[torch.Tensor, torch.Tensor],
                gate: torch.Tensor,
                weight: torch.Tensor = weight,
            ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
                hidden, cell = state
                input_gate, forget_gate, new, output_gate = (gate + hidden @ weight.t()).chunk(
                    4, -1
                )
                cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(
                    new
                )
                hidden = torch.sigmoid(output_gate) * torch.tanh(cell)
                return (hidden, cell), hidden.clone()

            zeros = x.new_zeros(x.shape[1], weight.shape[1])
            _, x = scan(step, (zeros, zeros.clone()), gates)
        return x


class OnnxLSTM(nn.Module):
    """`nn.LSTM` of [T, B, D] with zero state, as the ONNX operator, with gates in its order."""

    def __init__(self, source: nn.LSTM) -> None:
        super().__init__()
        self.num_layers = source.num_layers
        self.hidden_size = source.hidden_size
        for layer in range(source.num_layers):
            weights = []
            for weight in _lstm_weights(source, layer):
                input_gate, forget_gate, new, output_gate = weight.chunk(4)
                weights.append(torch.cat([input_gate, output_gate, forget_gate, new])[None])
            self.register_buffer(f'input_{layer}', weights[0])
            self.register_buffer(f'state_{layer}', weights[1])
            self.register_buffer(f'bias_{layer}', torch.cat(weights[2:], dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, B, D] to [T, B, D]."""
        for layer in range(self.num_layers):
            weights = [self.get_buffer(f'{name}_{layer}') for name in ('input', 'state', 'bias')]
            shape = (x.shape[0], 1, x.shape[1], self.hidden_size)
            x = torch.onnx.ops.symbolic(
                'LSTM', (x, *weights), {'hidden_size': self.hidden_size}, dtype=x.dtype, shape=shape
            ).squeeze(1)
        return x


class _LSTM(nn.Module):
    """`StreamableLSTM`."""

    def __init__(self, source: StreamableLSTM, lstm: type[ScanLSTM] | type[OnnxLSTM]) -> None:
        super().__init__()
        self.lstm = lstm(source.lstm)
        self.skip = source.skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # contiguous: otherwise tracing checks the order of strides, which depends on T
        x = x.permute(2, 0, 1).contiguous()
        y = self.lstm(x)
        return (y + x if self.skip else y).permute(1, 2, 0).contiguous()


class EncoderProgram(nn.Module):
    """Encoder: waveform float [B, C, T] to codes int64 [B, K, T_frames] of all codebooks.

    Also returns the scale [B, 1] if the model renormalizes. To use fewer codebooks, take the first
    ones.

    Args:
        model: made by `for_inference`; its modules are reused and modified.
        lstm: replacement of `nn.LSTM`.
    """

    def __init__(self, model: EncodecModel, lstm: type[ScanLSTM] | type[OnnxLSTM]) -> None:
        super().__init__()
        self.encoder = _traceable(model.encoder, lstm)
        self.renormalize = model.renormalize
        self.quantizer = model.quantizer

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode; see the class."""
        scale = None
        if self.renormalize:
            scale = wav.mean(dim=1, keepdim=True).square().mean(dim=2, keepdim=True).sqrt() + 1e-8
            wav = wav / scale
        codes = self.quantizer.traced_encode(self.encoder(wav))
        return (codes,) if scale is None else (codes, scale.view(-1, 1))


class DecoderProgram(nn.Module):
    """Decoder: codes int64 [B, K, T_frames] of the first K codebooks to the waveform.

    Also takes the scale [B, 1] if the model renormalizes.

    Args:
        model: made by `for_inference`; its modules are reused and modified.
        lstm: replacement of `nn.LSTM`.
    """

    def __init__(self, model: EncodecModel, lstm: type[ScanLSTM] | type[OnnxLSTM]) -> None:
        super().__init__()
        self.decoder = _traceable(model.decoder, lstm)
        self.quantizer = model.quantizer

    def forward(self, codes: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Decode; see the class."""
        wav = self.decoder(self.quantizer.traced_decode(codes))
        return wav if scale is None else wav * scale[:, :, None]


def programs(
    model: CompressionModel,
    name: str,
    lstm: type[ScanLSTM] | type[OnnxLSTM],
) -> tuple[EncoderProgram, DecoderProgram]:
    """Return encoder and decoder of a model, ready to be traced, for the format `name`.

    Raises:
        ValueError: the model cannot be traced; the message says why.
    """
    if not isinstance(model, EncodecModel):
        refuse(name, [f'it is a {type(model).__name__}, only EncodecModel is supported'])
    assert isinstance(model, EncodecModel)
    problems = []
    if not model.quantizer.is_traceable:
        problems.append(f'quantizer={type(model.quantizer).__name__} cannot be traced')
    if model.segments is not None:
        problems.append(
            'segment_duration: overlapping segments cannot be traced, only whole recordings'
        )
    refuse(name, problems)
    # two copies, because each program modifies its modules
    encoder = model.for_inference()
    decoder = model.for_inference()
    encoder.set_num_codebooks(encoder.total_codebooks)
    assert isinstance(encoder, EncodecModel)
    assert isinstance(decoder, EncodecModel)
    return EncoderProgram(encoder, lstm).eval(), DecoderProgram(decoder, lstm).eval()


def example_inputs(
    model: CompressionModel,
) -> dict[str, tuple[tuple[torch.Tensor, ...], dict[str, Any]]]:
    """Return arguments to trace encoder and decoder with, and their dynamic dimensions."""
    # at least two frames: PyTorch specializes for lengths of 1
    batch = Dim('batch', min=1)
    length = Dim('length', min=model.hop_length + 1)
    frames = Dim('frames', min=2)
    # a length that no other dimension has by chance
    wav = torch.randn(2, model.channels, 9 * model.hop_length + 3)
    codes = torch.randint(0, model.cardinality, (2, model.total_codebooks, 9))
    lengths = {0: batch, 2: frames}
    if model.total_codebooks > 1:
        lengths[1] = Dim('codebooks', min=1, max=model.total_codebooks)
    arguments: tuple[torch.Tensor, ...] = (codes,)
    dynamic = {'codes': lengths}
    if getattr(model, 'renormalize', False):
        arguments = (codes, torch.ones(2, 1))
        dynamic['scale'] = {0: batch}
    return {
        'encoder': ((wav,), {'wav': {0: batch, 2: length}}),
        'decoder': (arguments, dynamic),
    }


def description(model: CompressionModel) -> dict[str, Any]:
    """Return what a user of the two programs must know about the model."""
    renormalize = bool(getattr(model, 'renormalize', False))
    return {
        'sample_rate': model.sample_rate,
        'channels': model.channels,
        'hop_length': model.hop_length,
        'frame_rate': model.frame_rate,
        'codebooks': model.total_codebooks,
        'cardinality': model.cardinality,
        'encoder': {
            'inputs': {'wav': 'float32 [batch, channels, length]'},
            'outputs': {
                'codes': 'int64 [batch, codebooks, frames], frames = ceil(length / hop_length)',
                **({'scale': 'float32 [batch, 1]'} if renormalize else {}),
            },
        },
        'decoder': {
            'inputs': {
                'codes': 'int64 [batch, 1 to codebooks, frames]: the first codebooks',
                **({'scale': 'float32 [batch, 1]'} if renormalize else {}),
            },
            'outputs': {'wav': 'float32 [batch, channels, frames * hop_length]'},
        },
    }


def write_config(model: CompressionModel, out: Path, **more: Any) -> None:
    """Write `config.json`, with further entries, into the folder of the programs."""
    (out / 'config.json').write_text(json.dumps({**description(model), **more}, indent=2) + '\n')


def untraceable(name: str, part: str, error: Exception) -> ValueError:
    """Return the error for a model that PyTorch cannot trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ValueError(
        f'the format {name!r} does not support this model: its {part} cannot be traced for any '
        f'length; PyTorch {torch.__version__} raised {type(error).__name__}: '
        f'{lines[0][:200] if lines else ""}'
    )


def _traceable(module: nn.Module, lstm: type[ScanLSTM] | type[OnnxLSTM]) -> nn.Module:
    """Replace layers that cannot be traced for any length, in place."""
    for name, child in module.named_children():
        if isinstance(child, StreamableConv1d):
            module.add_module(name, _traceable(_Conv(child), lstm))
        elif isinstance(child, StreamableConvTranspose1d):
            module.add_module(name, _traceable(_ConvTranspose(child), lstm))
        elif isinstance(child, StreamableLSTM):
            module.add_module(name, _LSTM(child, lstm))
        elif isinstance(child, nn.GroupNorm) and child.num_groups == 1:
            module.add_module(name, _GroupNorm(child))
        else:
            _traceable(child, lstm)
    return module


def _lstm_weights(source: nn.LSTM, layer: int) -> list[torch.Tensor]:
    """Return the weights [4 D, D] of input and state and their biases [4 D], in PyTorch's order."""
    assert source.bias, source
    assert not source.bidirectional, source
    assert not source.batch_first, source
    return [
        getattr(source, f'{name}_l{layer}').detach()
        for name in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')
    ]
