import pytest
import torch
from torch import nn

from audiocodec.modules import narrow
from audiocodec.modules.narrow import NarrowConv2d


def gradients(conv, x):
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    y = conv(x)
    y.backward(torch.randn(y.shape))
    return [y.detach(), x.grad, *(parameter.grad for parameter in conv.parameters())]


@pytest.mark.parametrize(('channels', 'kernel', 'width'), [
    (2, (3, 9), 65), (2, (3, 9), 64), (2, (3, 9), 7), (2, (3, 9), 8), (1, (5, 3), 33), (4, (3, 9), 30),
    (8, (1, 5), 21)])
def test_gradients_are_those_of_an_ordinary_convolution(channels, kernel, width):
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    fast = NarrowConv2d(channels, 32, kernel, padding=padding)
    plain = nn.Conv2d(channels, 32, kernel, padding=padding)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, channels, 6, width)
    assert fast._is_faster(x.clone().requires_grad_())
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        fast.zero_grad()
        plain.zero_grad()
        for actual, expected in zip(gradients(fast, image), gradients(plain, image), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options', [
    {'in_channels': 16}, {'in_channels': 3}, {'stride': (1, 2)}, {'dilation': (2, 1)}, {'padding': 0},
    {'padding': 'same'}, {'in_channels': 4, 'groups': 2}, {'padding_mode': 'reflect'}, {'kernel_size': (2, 9)}])
def test_others_go_the_ordinary_way(options):
    options = {'in_channels': 2, 'out_channels': 4, 'kernel_size': (3, 9), 'padding': (1, 4), **options}
    conv = NarrowConv2d(**options)
    assert not conv._is_faster(torch.zeros(1, options['in_channels'], 12, 12, requires_grad=True))


def test_inference_autocast_and_other_types_go_the_ordinary_way():
    conv, x = NarrowConv2d(2, 4, (3, 9), padding=(1, 4)), torch.zeros(1, 2, 12, 12, requires_grad=True)
    assert conv._is_faster(x)
    assert not conv._is_faster(x.detach())
    assert not conv._is_faster(x.double())
    with torch.no_grad():
        assert not conv._is_faster(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not conv._is_faster(x)


def test_constant_parameters_have_no_gradient(monkeypatch):
    conv, x = NarrowConv2d(2, 4, (3, 9), padding=(1, 4)).requires_grad_(False), torch.randn(1, 2, 12, 12)
    used = []
    monkeypatch.setattr(narrow, '_input_gradient', lambda grad, weight: used.append(1) or torch.zeros(1, 2, 12, 12))
    gradients(conv, x)
    assert used
    assert conv.weight.grad is None
    assert conv.bias.grad is None
