"""SEANet for CPUs: channels-last convolutions, where oneDNN runs near the peak of the machine.

Layers with a small receptive field are computed part by part: all layers for one part of the
signal, then for the next. Intermediate tensors are small however long the signal is, and their
memory is reused for the next part; for large tensors, the system would clear every page first. The
result equals that of the whole signal to float rounding.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.cpu.kernels import LOG2_E
from audiocodec.models.cpu.layers import channels_last
from audiocodec.models.cpu.parts import Chain, Layer
from audiocodec.modules.networks.seanet import SEANetDecoder, SEANetEncoder

_SCALABLE = (nn.Conv1d, nn.ConvTranspose1d, nn.ELU, nn.Identity, nn.LSTM)


def for_cpu(model: CompressionModel) -> CompressionModel:
    """See `CompressionModel.for_cpu`."""
    model = model.for_inference()
    for module in model.modules():
        if isinstance(module, SEANetEncoder | SEANetDecoder) and not isinstance(
            module.model, Network
        ):
            assert isinstance(module.model, nn.Sequential)
            scale = _scale_of(module.model)
            module.model = Network(_chained(channels_last(module.model, scale)), scale)
    return model


class Network(nn.Sequential):
    """Sequence of layers that reuse memory, with signals multiplied by `scale` between them.

    Args:
        layers: at least one.
        scale: see `_scale_of`.
    """

    def __init__(self, layers: Iterable[nn.Module], scale: float) -> None:
        super().__init__(*layers)
        self.scale = scale

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to the output of the last layer."""
        return super().forward(x * self.scale).div_(self.scale)


def _scale_of(network: nn.Sequential) -> float:
    """Return the factor of the signals in a network: log2(e), so that ELUs can use exp2, or 1.

    Convolutions are linear, so only their biases must be multiplied by it.
    """
    leaves = (module for module in network.modules() if not list(module.children()))
    return LOG2_E if all(isinstance(leaf, _SCALABLE) for leaf in leaves) else 1.0


def _chained(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers, with runs of consecutive local layers merged into one."""
    chain: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Layer) and layer.local:
            chain.append(layer)
            continue
        if chain:
            yield Chain(chain)
        chain = []
        yield layer
    if chain:
        yield Chain(chain)
