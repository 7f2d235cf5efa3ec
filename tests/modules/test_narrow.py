import pytest
import torch

from audiocodec.modules.narrow import NarrowConv2d, _NarrowConv2d


@pytest.mark.parametrize('channels', [1, 2, 4])
@pytest.mark.parametrize('size', [(7, 33), (12, 64)])
@pytest.mark.parametrize('last', [False, True])
def test_value_and_gradients_are_those_of_the_plain_convolution(channels, size, last):
    torch.manual_seed(0)
    ours = NarrowConv2d(channels, 8, (3, 9), padding=(1, 4))
    plain = torch.nn.Conv2d(channels, 8, (3, 9), padding=(1, 4))
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, channels, *size)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    one, other = ours(first), plain(second)
    assert isinstance(one.grad_fn, _NarrowConv2d._backward_cls)
    assert torch.equal(one, other)
    weight = torch.randn_like(one)
    (one * weight).sum().backward()
    (other * weight).sum().backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options', [{'stride': (1, 2)}, {'dilation': (2, 1)}, {'padding': 0}])
def test_other_convolutions_are_left_to_pytorch(options):
    conv = NarrowConv2d(2, 8, (3, 9), **{'padding': (1, 4), **options})
    assert not isinstance(conv(torch.randn(1, 2, 8, 40, requires_grad=True)).grad_fn, _NarrowConv2d._backward_cls)
