"""Format `torch`: encoder and decoder as `torch.export` programs, which need only PyTorch."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import chunked, program, stateful

FORMAT = 'torch'


def save(model: CompressionModel, out: Path, stream_frames: int | None = None) -> None:
    """Write `encoder.pt2`, `decoder.pt2` (see `program`) and `config.json` into a new folder.

    Args:
        model: the model.
        out: the folder.
        stream_frames: also write `streaming_encoder.pt2` and `streaming_decoder.pt2`, for chunks of
            so many frames (see `chunked`); None: not.

    Raises:
        ValueError: the model cannot be traced or streamed.
    """
    encoder, decoder = program.programs(model, FORMAT, program.ScanLSTM)
    inputs = program.example_inputs(model)
    parts: dict[str, Any] = {
        name: (module, *inputs[name])
        for name, module in (('encoder', encoder), ('decoder', decoder))
    }
    more = {}
    if stream_frames is not None:
        found = chunked.programs(model, stream_frames, stateful.TorchLSTM)
        for name, each in found.items():
            parts[f'streaming_{name}'] = (each.module, each.arguments, each.dynamic)
        more['streaming'] = chunked.description(model, stream_frames, found)
    exported = {}
    for name, (module, arguments, dynamic) in parts.items():
        try:
            with torch.no_grad():
                exported[name] = torch.export.export(module, arguments, dynamic_shapes=dynamic)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            raise program.untraceable(FORMAT, name, error) from error
    out.mkdir(parents=True, exist_ok=True)
    for name, traced in exported.items():
        _remove_stack_traces(traced)
        torch.export.save(traced, out / f'{name}.pt2')
    program.write_config(model, out, **more)


def _remove_stack_traces(traced: torch.export.ExportedProgram) -> None:
    """Remove the source lines of each operator: larger than everything but the weights."""
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop('stack_trace', None)


class Loaded:
    """The two programs of a folder, loaded with PyTorch only."""

    def __init__(self, out: Path) -> None:
        with warnings.catch_warnings():
            # PyTorch maps the weights read-only, and warns about it
            warnings.simplefilter('ignore', UserWarning)
            programs = {path.stem: torch.export.load(path).module() for path in out.glob('*.pt2')}
        self._encoder, self._decoder = programs['encoder'], programs['decoder']
        self.streamed = None
        text = json.loads((out / 'config.json').read_text()).get('streaming')
        if text is not None:
            self.streamed = chunked.Streamed(
                text, lambda name, arguments: programs[f'streaming_{name}'](*arguments)
            )

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes [B, K, T_frames] and scale [B, 1] or None, of a waveform [B, C, T]."""
        codes, *scale = self._encoder(wav)
        return codes, scale[0] if scale else None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length]."""
        return self._decoder(codes) if scale is None else self._decoder(codes, scale)
