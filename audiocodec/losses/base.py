"""Base class of losses that need more of a codec's output than the waveform."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn


class CodecLoss(nn.Module, ABC):
    """Loss on the whole output of a codec, such as a distillation of its latents.

    It is called as `loss(output, wav)` instead of `loss(wav_hat, wav)`. Its gradient does not pass
    through the waveform alone, so the balancer does not rescale it: its weight in the recipe
    multiplies it, as it does for the losses of a quantizer. Its parameters that require a gradient
    are trained with those of the codec and are part of a checkpoint. (Those of other losses are
    neither.) Keep a frozen network out of the state dict, e.g. in a list.
    """

    @abstractmethod
    def forward(self, output: Any, wav: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            output: an `audiocodec.models.CodecOutput`.
            wav: the original, float [B, C, T].

        Returns:
            Scalar, 0-d.
        """
