"""LSTM over the time of a convolutional tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .checks import require_int


@contextmanager
def _training_kernels(x: torch.Tensor) -> Iterator[None]:
    """Compute as in training, also where no gradient is needed.

    On a CPU, PyTorch would then take another LSTM, of oneDNN, which rounds differently: nearly tied codes would change
    between training and inference, and from those of other implementations.
    """
    if x.device.type != 'cpu' or torch.compiler.is_compiling():
        yield
        return
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


class StreamableLSTM(nn.Module):
    """Unidirectional LSTM that takes and returns the layout of convolutions, and starts from a zero state.

    Args:
        dimension: channels in and out.
        num_layers: stacked layers.
        skip: whether to add the input to the output.
    """

    def __init__(self, dimension: int, num_layers: int = 2, skip: bool = True) -> None:
        super().__init__()
        require_int('dimension', dimension)
        require_int('num_layers', num_layers)
        self.skip = skip
        self.lstm = nn.LSTM(dimension, dimension, num_layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, dimension, T] to [B, dimension, T]."""
        x = x.permute(2, 0, 1)
        with _training_kernels(x):
            y, _ = self.lstm(x)
        if self.skip:
            y = y + x
        return y.permute(1, 2, 0)
