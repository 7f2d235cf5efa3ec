"""Snake, a periodic activation (Ziyin et al., arXiv 2006.08195)."""

import torch
from torch import nn

from audiocodec.modules.reach import Reach

_SMALLEST = 1e-9  # added to alpha, which may become 0


class Snake(nn.Module):
    """x + sin²(alpha x) / alpha, with one alpha per channel.

    Args:
        channels: channels of the signal.

    Parameters:
        alpha: [1, channels, 1], angular frequency of the periodic part; 1 at the start.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels, T] to the same shape."""
        return x + torch.sin(self.alpha * x).square() / (self.alpha + _SMALLEST)

    def reads(self, first: float, last: float, recurrence: bool = True) -> Reach:
        """Return the outputs' own inputs; see `reach`."""
        return Reach(first, last)
