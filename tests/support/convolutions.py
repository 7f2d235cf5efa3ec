"""Comparison of fast convolutions with PyTorch's in double precision."""

import torch
from torch import nn

from audiocodec.kernels.conv import FastConv1d, FastConv2d, FastConvTranspose1d

PLAIN = {FastConv1d: nn.Conv1d, FastConv2d: nn.Conv2d, FastConvTranspose1d: nn.ConvTranspose1d}


def pair(kind, *args, **kwargs):
    """Return a fast convolution, and PyTorch's in double precision with the same weights."""
    torch.manual_seed(0)
    fast = kind(*args, **kwargs)
    plain = PLAIN[kind](*args, **kwargs)
    plain.load_state_dict(fast.state_dict())
    return fast, plain.double()


def results(conv, x):
    """Return the output, and the gradients of input and parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    generator = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=generator).to(y))
    return [y.detach(), x.grad, *(parameter.grad for parameter in conv.parameters())]


def assert_same(fast, plain, x, tolerance=3e-6):
    """Compare in relation to the largest value: some values are sums of thousands of terms."""
    for actual, expected in zip(results(fast, x), results(plain, x.double()), strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * scale)


def images(channels, height=21, width=33, items=2):
    """Return random images in the channels-last format."""
    torch.manual_seed(2)
    return torch.randn(items, channels, height, width).contiguous(memory_format=torch.channels_last)
