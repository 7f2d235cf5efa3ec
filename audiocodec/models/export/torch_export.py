"""`torch`: encoder and decoder as programs of `torch.export`, which run in PyTorch without this
package.
"""

import warnings
from pathlib import Path

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import program

FORMAT = 'torch'


def save(model: CompressionModel, out: Path) -> None:
    """Write `encoder.pt2` and `decoder.pt2` (see `program`) and `config.json` into a folder, which
    is made.

    Raises:
        ValueError: a model that cannot be traced.
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
        _forget_places(traced)
        torch.export.save(traced, out / f'{name}.pt2')
    program.write_config(model, out)


def _forget_places(traced: torch.export.ExportedProgram) -> None:
    """Leave out which line of which file on this machine each operator is from: more than all else
    but the weights.
    """
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop('stack_trace', None)


class Loaded:
    """The two programs of a folder, read by PyTorch alone."""

    def __init__(self, out: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                'ignore', UserWarning
            )  # PyTorch maps the weights read-only, and warns of that
            self._encoder, self._decoder = (
                torch.export.load(out / f'{name}.pt2').module() for name in ('encoder', 'decoder')
            )

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes [B, K, T_frames] and scale [B, 1] or None, of a waveform [B, C, T]."""
        codes, *scale = self._encoder(wav)
        return codes, scale[0] if scale else None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Waveform [B, C, T_frames * hop_length]."""
        return self._decoder(codes) if scale is None else self._decoder(codes, scale)
