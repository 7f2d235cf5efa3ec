import copy

import pytest
import torch
from convolutions import assert_same, images, pair, results
from torch import nn

from audiocodec import kernels
from audiocodec.kernels import conv as kernel_conv
from audiocodec.kernels import winograd
from audiocodec.kernels.conv import FastConv1d, FastConv2d, FastConvTranspose1d


@pytest.mark.parametrize(
    ('kind', 'args', 'kwargs', 'shape'),
    [
        (FastConv1d, (6, 9, 5), {'stride': 2, 'padding': 3}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {'dilation': 4, 'bias': False}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {'groups': 3}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {'padding': 'same', 'padding_mode': 'reflect'}, (2, 6, 40)),
        (FastConv1d, (6, 9, 3), {}, (6, 40)),
        (FastConvTranspose1d, (6, 9, 8), {'stride': 4, 'padding': 2}, (2, 6, 20)),
        (FastConvTranspose1d, (6, 9, 8), {'stride': 4, 'output_padding': 1}, (2, 6, 20)),
        (
            FastConv2d,
            (32, 16, (3, 9)),
            {'stride': (1, 2), 'dilation': (2, 1), 'padding': (2, 4)},
            (2, 32, 20, 30),
        ),
    ],
)
def test_values_and_gradients_equal_pytorch(kind, args, kwargs, shape, fast_paths):
    torch.manual_seed(3)
    assert_same(*pair(kind, *args, **kwargs), torch.randn(shape))
    assert not fast_paths


def test_zeros_replace_the_padding_of_the_module():
    fast, plain = pair(FastConv1d, 3, 4, 5)
    x = torch.randn(2, 3, 20)
    padded = plain(nn.functional.pad(x.double(), (2, 2)))
    torch.testing.assert_close(fast(x, 2).double(), padded, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, 2).double(), padded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('kind', 'args', 'kwargs', 'length'),
    [
        (FastConv1d, (20, 128, 16), {'stride': 8}, 40),
        (FastConv1d, (20, 128, 16), {'stride': 8, 'padding': 4}, 37),
        (FastConv1d, (20, 128, 3), {'padding': 1}, 5),
        (FastConvTranspose1d, (128, 20, 16), {'stride': 8}, 5),
        (FastConvTranspose1d, (128, 20, 16), {'stride': 8, 'padding': 3}, 5),
        (FastConvTranspose1d, (20, 128, 5), {'stride': 3}, 5),
    ],
)
def test_weight_gradient_of_few_frames(kind, args, kwargs, length, fast_paths):
    torch.manual_seed(3)
    assert_same(*pair(kind, *args, **kwargs), torch.randn(3, args[0], length))
    assert fast_paths == {'_few_frame_weight_gradient'}


def test_autocast_and_other_types_use_pytorch(fast_paths, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', True)
    conv = FastConv2d(32, 32, (3, 9), padding=(1, 4))
    x = images(32)
    results(conv.double(), x.double())
    conv.float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        results(conv, x)
    assert not fast_paths
    results(conv, x)
    assert fast_paths == {'convolve', 'gradients'}


def test_frozen_parameters_have_no_gradient(fast_paths):
    conv = FastConv2d(2, 4, (3, 9), padding=(1, 4)).requires_grad_(False)
    assert results(conv, images(2, 12, 12))[1] is not None
    assert fast_paths == {'input_gradient'}
    assert conv.weight.grad is None
    assert conv.bias.grad is None


@pytest.mark.parametrize('is_winograd', [False, True])
@pytest.mark.parametrize('channels', [2, 16])
def test_second_derivatives(channels, is_winograd, monkeypatch):
    monkeypatch.setattr(winograd, 'IS_FASTER', is_winograd)
    fast, plain = pair(FastConv2d, channels, 16, (3, 9), padding=(1, 4))
    found = []
    for conv, x in ((fast, images(channels)), (plain, images(channels).double())):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append([conv.weight.grad.double(), x.grad.double()])
    for actual, expected in zip(*found, strict=True):
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_copies_have_the_state_of_pytorch():
    conv = FastConv2d(2, 4, (3, 9))
    assert copy.deepcopy(conv).state_dict().keys() == nn.Conv2d(2, 4, (3, 9)).state_dict().keys()


def test_the_switch_leaves_convolutions_to_pytorch(monkeypatch):
    conv, x = FastConv2d(32, 32, (3, 9), padding=(1, 4)), images(32)
    expected = results(conv, x)
    calls = []
    monkeypatch.setattr(kernel_conv, 'convolve', lambda *arguments: calls.append(1))
    kernels.use(False)
    try:
        found = results(conv, x)
    finally:
        kernels.use(True)
    assert not calls
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert conv(x) is None
    assert calls == [1]
