"""Format `torch`: encoder and decoder as `torch.export` programs, which need only PyTorch."""

import warnings
from pathlib import Path

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import program

FORMAT = 'torch'


def save(model: CompressionModel, out: Path) -> None:
    """Write `encoder.pt2`, `decoder.pt2` (see `program`) and `config.json` into a new folder.

    Raises:
        ValueError: the model cannot be traced.
    """
    encoder, decoder = program.programs(model, FORMAT, program.ScanLSTM)
    inputs = program.example_inputs(model)
    exported = {}
    for name, module in (('encoder', encoder), ('decoder', decoder)):
        arguments, dynamic = inputs[name]
        try:
            with torch.no_grad():
                exported[name] = torch.export.export(module, arguments, dynamic_shapes=dynamic)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            raise program.untraceable(FORMAT, name, error) from error
    out.mkdir(parents=True, exist_ok=True)
    for name, traced in exported.items():
        _remove_stack_traces(traced)
        torch.export.save(traced, out / f'{name}.pt2')
    program.write_config(model, out)


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
            self._encoder = torch.export.load(out / 'encoder.pt2').module()
            self._decoder = torch.export.load(out / 'decoder.pt2').module()

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes [B, K, T_frames] and scale [B, 1] or None, of a waveform [B, C, T]."""
        codes, *scale = self._encoder(wav)
        return codes, scale[0] if scale else None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length]."""
        return self._decoder(codes) if scale is None else self._decoder(codes, scale)
