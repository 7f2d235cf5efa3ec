"""Format `onnx`: encoder and decoder as ONNX graphs, for onnxruntime and others; extra `onnx`."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.export import program
from audiocodec.utils.errors import require

FORMAT = 'onnx'
OPSET = 18


def save(model: CompressionModel, out: Path) -> None:
    """Write `encoder.onnx`, `decoder.onnx` (see `program`) and `config.json` into a new folder.

    Raises:
        ValueError: a package of the extra is missing, or the model cannot be traced.
    """
    require(f'the format {FORMAT!r}', 'onnx', 'onnx', 'onnxscript', 'onnxruntime')
    encoder, decoder = program.programs(model, FORMAT, program.OnnxLSTM)
    inputs, texts = program.example_inputs(model), program.description(model)
    exported = {}
    for name, module in (('encoder', encoder), ('decoder', decoder)):
        arguments, dynamic = inputs[name]
        try:
            with torch.no_grad(), _quiet():
                exported[name] = torch.onnx.export(
                    module,
                    arguments,
                    dynamo=True,
                    dynamic_shapes=dynamic,
                    opset_version=OPSET,
                    verbose=False,
                    input_names=list(texts[name]['inputs']),
                    output_names=list(texts[name]['outputs']),
                )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise program.untraceable(FORMAT, name, error.__cause__ or error) from error  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    for name, graph in exported.items():
        assert graph is not None
        graph.model.metadata_props.update(
            {key: str(value) for key, value in texts.items() if key not in exported}
        )
        for node in graph.model.graph.all_nodes():
            node.metadata_props.clear()  # source lines on this machine
        graph.save(out / f'{name}.onnx', external_data=False)
    program.write_config(model, out)


class Loaded:
    """The two graphs of a folder, loaded in onnxruntime on the CPU."""

    def __init__(self, out: Path) -> None:
        require(f'the format {FORMAT!r}', 'onnx', 'onnxruntime')
        import onnxruntime

        providers = ['CPUExecutionProvider']
        self._encoder = onnxruntime.InferenceSession(out / 'encoder.onnx', providers=providers)
        self._decoder = onnxruntime.InferenceSession(out / 'decoder.onnx', providers=providers)

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
