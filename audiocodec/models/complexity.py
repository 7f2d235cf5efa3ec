"""Multiply-adds of a model, counted while it runs."""

from typing import Any

import torch
from torch import nn

from audiocodec import kernels
from audiocodec.models.base import CompressionModel


@torch.no_grad()
def multiply_adds(model: CompressionModel, seconds: float = 1.0) -> float:
    """Count the multiply-adds of encoding and decoding a second of mono or stereo audio.

    Convolutions, matrix products and attention are counted by PyTorch's counter. It does not know
    recurrent layers on a CPU, whose products are added here.

    Args:
        model: in eval mode.
        seconds: duration of the signal that is counted.

    Returns:
        Multiply-adds per second of audio.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    device = next(model.parameters()).device
    wav = torch.zeros(1, model.channels, round(seconds * model.output_sample_rate), device=device)
    recurrent = 0.0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal recurrent
        steps = inputs[0].shape[0] * inputs[0].shape[1]  # items x frames, in either order
        assert isinstance(module, nn.RNNBase)
        names = [name for name, _ in module.named_parameters() if name.startswith('weight_')]
        recurrent += steps * sum(getattr(module, name).numel() for name in names)

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.RNNBase)
    ]
    enabled = kernels.is_enabled()
    kernels.use(False)  # the usual algorithms, with all their products
    try:
        with FlopCounterMode(display=False) as counter:
            model(wav)
    finally:
        kernels.use(enabled)
        for hook in hooks:
            hook.remove()
    return (counter.get_total_flops() / 2 + recurrent) / seconds
