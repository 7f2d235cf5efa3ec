"""Weight initialization of convolutions."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

_Conv = nn.Conv1d | nn.ConvTranspose1d | nn.Conv2d
INITS = ('default', 'zero_bias', 'lecun_normal', 'scaled_residual')


@torch.no_grad()
def initialize(module: nn.Module, init: str) -> None:
    """Initialize every 1-D and 2-D convolution in a module.

    PyTorch's default draws weights, and biases of the same size, with the variance 1 / (3 fan_in):
    each layer passes on about a third of the power of its input. After the thirty layers of a small
    SEANet, the output is determined by the biases, and it takes hundreds of updates until it
    depends on the input. `zero_bias` only sets the biases to zero, as `descript-audio-codec` does
    (the weights that it draws have no effect, since weight_norm computes others). With
    `lecun_normal` (LeCun et al., Efficient BackProp, 1998, section 4.6), weights have the variance
    1 / fan_in and biases are zero: a convolution keeps the power.

    Each residual branch then adds as much power as its input has. With one branch per stage, as in
    EnCodec, that is a factor of 16; DAC's twelve branches saturate the Tanh at the output. With
    `scaled_residual`, the last convolution of each of N branches has weights smaller by sqrt(N), as
    in GPT-2, so that all together double the power.

    Args:
        module: its convolutions may be parametrized (weight_norm). Residual branches are the
            attributes `block` of its submodules.
        init: one of `INITS`; `default` is PyTorch's, which published codecs use.

    Raises:
        ValueError: unknown name.
    """
    if init not in INITS:
        raise ValueError(f'init={init!r} is unknown: choose one of {", ".join(INITS)}')
    if init == 'default':
        return
    if init == 'zero_bias':
        for conv in _convolutions(module):
            if conv.bias is not None:
                conv.bias.zero_()
        return
    branches = _residual_branches(module) if init == 'scaled_residual' else []
    ends = {id(_convolutions(branch)[-1]) for branch in branches}
    for conv in _convolutions(module):
        fan_in = conv.in_channels // conv.groups * math.prod(conv.kernel_size)
        if isinstance(conv, nn.ConvTranspose1d):
            # Only every stride-th tap contributes to a given output sample.
            fan_in = max(1, fan_in // conv.stride[0])
        if id(conv) in ends:
            fan_in *= len(branches)
        weight = torch.randn_like(conv.weight) * fan_in**-0.5
        if parametrize.is_parametrized(conv, 'weight'):
            conv.weight = weight  # assigns to the tensors of the parametrization
        else:
            conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.zero_()


def _convolutions(module: nn.Module) -> list[_Conv]:
    """Return the convolutions of a module, in the order of the signal."""
    return [conv for conv in module.modules() if isinstance(conv, _Conv)]


def _residual_branches(module: nn.Module) -> list[nn.Module]:
    """Return the residual branches of a module: the attributes `block`."""
    blocks = (getattr(unit, 'block', None) for unit in module.modules())
    return [block for block in blocks if isinstance(block, nn.Module)]
