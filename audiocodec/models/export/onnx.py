"""Format `onnx`: encoder and decoder as ONNX graphs, for onnxruntime and others; extra `onnx`."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import chunked, program, stateful
from audiocodec.utils.errors import require

FORMAT = 'onnx'
OPSET = 18


def save(model: CompressionModel, out: Path, stream_frames: int | None = None) -> None:
    """Write `encoder.onnx`, `decoder.onnx` (see `program`) and `config.json` into a new folder.

    Args:
        model: the model.
        out: the folder.
        stream_frames: also write `streaming_encoder.onnx` and `streaming_decoder.onnx`, for chunks
            of so many frames (see `chunked`); None: not.

    Raises:
        ValueError: a package of the extra is missing, or the model cannot be traced or streamed.
    """
    require(f'the format {FORMAT!r}', 'onnx', 'onnx', 'onnxscript', 'onnxruntime')
    encoder, decoder = program.programs(model, FORMAT, program.OnnxLSTM)
    inputs, texts = program.example_inputs(model), program.description(model)
    parts = {
        name: chunked.Program(module, *inputs[name], texts[name])
        for name, module in (('encoder', encoder), ('decoder', decoder))
    }
    more = {}
    if stream_frames is not None:
        found = chunked.programs(model, stream_frames, stateful.OnnxLSTM)
        parts.update({f'streaming_{name}': each for name, each in found.items()})
        more['streaming'] = chunked.description(model, stream_frames, found)
    graphs = {name: _traced(name, part) for name, part in parts.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        graph.model.metadata_props.update(
            {key: str(value) for key, value in texts.items() if key not in graphs}
        )
        for node in graph.model.graph.all_nodes():
            node.metadata_props.clear()  # source lines on this machine
        graph.save(out / f'{name}.onnx', external_data=False)
    program.write_config(model, out, **more)


def _traced(name: str, part: chunked.Program) -> torch.onnx.ONNXProgram:
    """Return the graph of a program."""
    try:
        with torch.no_grad(), _quiet():
            graph = torch.onnx.export(
                part.module,
                part.arguments,
                dynamo=True,
                dynamic_shapes=part.dynamic,
                opset_version=OPSET,
                verbose=False,
                input_names=list(part.text['inputs']),
                output_names=list(part.text['outputs']),
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise program.untraceable(FORMAT, name, error.__cause__ or error) from error  # type: ignore[arg-type]
    assert graph is not None
    return graph


class Loaded:
    """The two graphs of a folder, loaded in onnxruntime on the CPU."""

    def __init__(self, out: Path) -> None:
        require(f'the format {FORMAT!r}', 'onnx', 'onnxruntime')
        import onnxruntime

        def load(name: str) -> Any:
            return onnxruntime.InferenceSession(
                out / f'{name}.onnx', providers=['CPUExecutionProvider']
            )

        self._encoder, self._decoder = load('encoder'), load('decoder')
        self.streamed = None
        text = json.loads((out / 'config.json').read_text()).get('streaming')
        if text is not None:
            programs = {name: load(f'streaming_{name}') for name in ('encoder', 'decoder')}

            def run(name: str, arguments: list[torch.Tensor]) -> list[torch.Tensor]:
                feeds = dict(zip(text[name]['inputs'], (each.numpy() for each in arguments)))
                return [torch.from_numpy(each) for each in programs[name].run(None, feeds)]

            self.streamed = chunked.Streamed(text, run)

    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes [B, K, T_frames] and scale [B, 1] or None, of a waveform [B, C, T]."""
        codes, *scale = self._encoder.run(None, {'wav': wav.numpy()})
        return torch.from_numpy(codes), torch.from_numpy(scale[0]) if scale else None

    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length]."""
        feeds = {'codes': codes.numpy()}
        if scale is not None:
            feeds['scale'] = scale.numpy()
        return torch.from_numpy(self._decoder.run(None, feeds)[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about unused packages and its own deprecations."""
    registration = logging.getLogger('torch.onnx._internal.exporter._registration')
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        registration.setLevel(level)
