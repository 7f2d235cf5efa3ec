"""LSTM over the time axis of convolutional features."""

import math

import torch
from torch import nn

from audiocodec.modules.checks import require_int
from audiocodec.modules.reach import Reach


class StreamableLSTM(nn.Module):
    """Unidirectional LSTM on [B, C, T], starting from a zero state.

    Args:
        dimension: input and output channels.
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
        y = self._run(x)
        if self.skip:
            y = y + x
        return y.permute(1, 2, 0)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, B, dimension] to [T, B, dimension].

        On a CPU without gradients, PyTorch would use other kernels than in training. They round
        differently, so that nearly tied codes would differ between training and inference.
        Enabling gradients selects the kernels of training.
        """
        if x.device.type != 'cpu' or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.lstm(x)[0]
        with torch.enable_grad():
            return self.lstm(x)[0].detach()

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return all previous inputs; without `recurrence`, those of the outputs only."""
        return Reach(-math.inf if recurrence else first, last)
