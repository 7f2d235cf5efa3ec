"""Weight initialization of convolutions."""

import torch
from torch import nn
from torch.nn.utils import parametrize

INITS = ('default', 'lecun_normal')


@torch.no_grad()
def initialize(module: nn.Module, init: str) -> None:
    """Initialize every 1-D convolution in a module.

    PyTorch's default draws weights, and biases of the same size, with the variance 1 / (3 fan_in):
    each layer passes on about a third of the power of its input. After the thirty layers of a small
    SEANet, the output is determined by the biases, and it takes hundreds of updates until it
    depends on the input. With `lecun_normal` (LeCun et al., Efficient BackProp, 1998, section 4.6)
    weights have the variance 1 / fan_in and biases are zero: the power stays about the same.

    Args:
        module: its convolutions may be parametrized (weight_norm).
        init: `default` (PyTorch's, which published codecs use) or `lecun_normal`.

    Raises:
        ValueError: unknown name.
    """
    if init not in INITS:
        raise ValueError(f'init={init!r} is unknown: choose one of {", ".join(INITS)}')
    if init == 'default':
        return
    for conv in module.modules():
        if not isinstance(conv, nn.Conv1d | nn.ConvTranspose1d):
            continue
        fan_in = conv.in_channels // conv.groups * conv.kernel_size[0]
        if isinstance(conv, nn.ConvTranspose1d):
            # Only every stride-th tap contributes to a given output sample.
            fan_in = max(1, fan_in // conv.stride[0])
        weight = torch.randn_like(conv.weight) * fan_in**-0.5
        if parametrize.is_parametrized(conv, 'weight'):
            conv.weight = weight  # assigns to the tensors of the parametrization
        else:
            conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.zero_()
