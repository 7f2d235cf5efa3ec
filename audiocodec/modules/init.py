"""Initial weights of convolutions."""

import torch
from torch import nn
from torch.nn.utils import parametrize

INITS = ('default', 'lecun_normal')


@torch.no_grad()
def initialize(module: nn.Module, init: str) -> None:
    """Initialise every 1-D convolution in a module.

    PyTorch's default gives a weight the variance 1 / (3 fan_in) and a bias of the same size: each
    layer passes on about a third of the power of its input. Behind the thirty layers of a small
    SEANet the output is that of the biases, and hundreds of updates go by before it depends on the
    input. With `lecun_normal` (LeCun et al., Efficient BackProp, 1998, section 4.6) a weight has
    the variance 1 / fan_in and biases are zero: the power stays about the same.

    Args:
        module: its convolutions may be parametrised (weight_norm).
        init: `default`, what PyTorch and the field do; or `lecun_normal`.

    Raises:
        ValueError: unknown name.
    """
    if init not in INITS:
        raise ValueError(f'init={init!r} is unknown: choose one of {", ".join(INITS)}.')
    if init == 'default':
        return
    for conv in module.modules():
        if not isinstance(conv, nn.Conv1d | nn.ConvTranspose1d):
            continue
        fan_in = conv.in_channels // conv.groups * conv.kernel_size[0]
        if isinstance(
            conv, nn.ConvTranspose1d
        ):  # of its taps, one in `stride` meets a given output sample
            fan_in = max(1, fan_in // conv.stride[0])
        weight = torch.randn_like(conv.weight) * fan_in**-0.5
        if parametrize.is_parametrized(conv, 'weight'):
            conv.weight = weight  # sets what the parametrisation is made of
        else:
            conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.zero_()
