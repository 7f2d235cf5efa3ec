"""Encoder and decoder as programs for chunks of a signal, with their state as inputs and outputs.

`first` marks the items of a batch whose signal starts with the chunk: their state is not used.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from audiocodec.models.base import CompressionModel
from audiocodec.models.certificate.clips import Clips
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.export.stateful import Memory, OnnxLSTM, TorchLSTM, advance, cannot, replaced
from audiocodec.modules.checks import require_int


class ChunkProgram(nn.Module, ABC):
    """A chunk and a state to the result of the chunk and the next state.

    Args:
        model: made by `for_inference`; its modules are reused and modified.
        frames: frames of a chunk.
        lstm: replacement of `nn.LSTM`.
    """

    def __init__(self, model: EncodecModel, frames: int, lstm: type[TorchLSTM | OnnxLSTM]) -> None:
        super().__init__()
        self.frames = frames
        self.network = replaced(self.network_of(model), lstm)
        self.quantizer = model.quantizer

    @staticmethod
    @abstractmethod
    def network_of(model: EncodecModel) -> nn.Module:
        """Return the part of the model that is used beside the quantizer."""

    @abstractmethod
    def run(self, x: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Return the result of a chunk."""

    def forward(
        self, x: torch.Tensor, first: torch.Tensor, *state: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the result and the next state; see `Memory`."""
        memory = Memory(self.frames, first, state)
        y = self.run(x, memory)
        return (y, *memory.kept)


class ChunkEncoder(ChunkProgram):
    """Waveform [B, C, frames * hop_length] to codes [B, K, frames]."""

    @staticmethod
    def network_of(model: EncodecModel) -> nn.Module:
        """See `ChunkProgram`."""
        return model.encoder

    def run(self, x: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Return the codes of a chunk."""
        return self.quantizer.traced_encode(advance(self.network, x, memory, ''))


class ChunkDecoder(ChunkProgram):
    """Codes [B, K, frames] of the first K codebooks to their waveform."""

    @staticmethod
    def network_of(model: EncodecModel) -> nn.Module:
        """See `ChunkProgram`."""
        return model.decoder

    def run(self, x: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Return the waveform of a chunk."""
        return advance(self.network, self.quantizer.traced_decode(x), memory, '')


@dataclass
class Program:
    """What tracing one of the two programs needs.

    Attributes:
        module: the program.
        arguments: example arguments.
        dynamic: their dynamic dimensions.
        text: its entry in `config.json`: inputs, outputs, and states.
    """

    module: nn.Module
    arguments: tuple[torch.Tensor, ...]
    dynamic: dict[str, Any]
    text: dict[str, Any]


def programs(
    model: CompressionModel, frames: int, lstm: type[TorchLSTM | OnnxLSTM]
) -> dict[str, Program]:
    """Return encoder and decoder for chunks of `frames` frames.

    Args:
        model: one that `program.programs` accepts.
        frames: frames of codes in a chunk.
        lstm: replacement of `nn.LSTM`.

    Raises:
        ValueError: the model cannot stream, or not in chunks as short as that.
    """
    require_int('stream_frames', frames)
    assert isinstance(model, EncodecModel), type(model)
    if model.renormalize:
        raise cannot('renormalize=True needs the loudness of the whole signal')
    encoder, decoder = model.for_inference(), model.for_inference()
    assert isinstance(encoder, EncodecModel)
    assert isinstance(decoder, EncodecModel)
    encoder.set_num_codebooks(encoder.total_codebooks)
    decoder.set_num_codebooks(decoder.total_codebooks)
    modules: dict[str, ChunkProgram] = {
        'encoder': ChunkEncoder(encoder, frames, lstm).eval(),
        'decoder': ChunkDecoder(decoder, frames, lstm).eval(),
    }
    dtype = next(model.encoder.parameters()).dtype
    inputs = {
        'encoder': torch.randn(2, model.channels, frames * model.hop_length, dtype=dtype),
        'decoder': torch.randint(0, model.cardinality, (2, model.total_codebooks, frames)),
    }
    memories = {name: Memory(frames) for name in modules}
    with torch.no_grad():
        for name, module in modules.items():
            module.run(inputs[name], memories[name])
    needed = max(memory.needed for memory in memories.values())
    _check_frames(frames, needed, encoder.quantizer.frame_group)
    return {
        name: _program(name, module, inputs[name], memories[name])
        for name, module in modules.items()
    }


def _check_frames(frames: int, needed: int, group: int) -> None:
    """Refuse chunks that are too short, or that divide a group of frames of the quantizer."""
    needed = -(-needed // group) * group
    if frames < needed:
        raise ValueError(
            f'stream_frames={frames}: the first chunk of this model needs {needed} frames, which '
            f'pad_mode=reflect repeats before the signal; use {needed} or more, or '
            'pad_mode=constant or replicate in the recipe'
        )
    if frames % group:
        raise ValueError(
            f'stream_frames={frames}: the quantizer of this model takes {group} frames at a time; '
            f'use a multiple of {group}'
        )


def _program(name: str, module: nn.Module, x: torch.Tensor, memory: Memory) -> Program:
    """Describe a program, from an example input and what it kept."""
    batch = Dim('batch', min=1)
    argument, result = ('wav', 'codes') if name == 'encoder' else ('codes', 'wav')
    lengths: dict[int, Any] = {0: batch}
    if name == 'decoder' and x.shape[1] > 1:
        lengths[1] = Dim('codebooks', min=1, max=x.shape[1])
    states = {
        each: {'shape': list(kept.shape[1:]), 'dtype': str(kept.dtype).removeprefix('torch.')}
        for each, kept in zip(memory.names, memory.kept, strict=True)
    }
    first = torch.tensor([True, False])
    return Program(
        module,
        (x, first, *(torch.zeros_like(kept) for kept in memory.kept)),
        {'x': lengths, 'first': {0: batch}, 'state': tuple({0: batch} for _ in states)},
        {
            'inputs': [argument, 'first', *states],
            'outputs': [result, *(f'next_{each}' for each in states)],
            'state': states,
        },
    )


class Streamed:
    """The two programs of a folder behind the interface of a codec, for whole chunks only.

    Args:
        text: `streaming` of `config.json`.
        run: runs a program, `encoder` or `decoder`, with its arguments in order.

    Attributes:
        frames: frames of a chunk.
    """

    def __init__(
        self,
        text: dict[str, Any],
        run: Callable[[str, list[torch.Tensor]], Sequence[torch.Tensor]],
    ) -> None:
        self._text = text
        self.frames: int = text['frames']
        self._run = run

    def _stream(self, name: str, x: torch.Tensor, size: int) -> torch.Tensor:
        """Return the outputs of all chunks of x [B, C, T], each of `size` samples or frames."""
        assert x.shape[-1] % size == 0, (x.shape, size)
        state = [
            torch.zeros(len(x), *each['shape'], dtype=getattr(torch, each['dtype']))
            for each in self._text[name]['state'].values()
        ]
        found = []
        for index, chunk in enumerate(x.split(size, dim=-1)):
            first = torch.full((len(x),), index == 0)
            y, *state = self._run(name, [chunk.contiguous(), first, *state])
            found.append(y)
        return torch.cat(found, dim=-1)

    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the codes [B, K, T_frames] of a waveform [B, C, T]."""
        return self._stream('encoder', wav, self._text['samples']), None

    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Return the waveform of codes [B, K, T_frames]; there is no scale."""
        assert scale is None
        return self._stream('decoder', codes, self.frames)

    def whole(self, clips: Clips) -> Clips:
        """Return clips with zeros up to whole chunks."""
        size = self._text['samples']
        wavs = [F.pad(wav, (0, -wav.shape[-1] % size)) for wav in clips.wavs]
        return Clips(clips.origin, clips.names, wavs)


def description(model: CompressionModel, frames: int, found: dict[str, Program]) -> dict[str, Any]:
    """Return what a user of the programs must know, for `config.json`."""
    return {
        'frames': frames,
        'samples': frames * model.hop_length,
        **{name: each.text for name, each in found.items()},
    }
