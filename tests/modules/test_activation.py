import pytest
import torch
from torch import nn

from audiocodec.modules import make_activation


def test_activation_by_name():
    assert make_activation('LeakyReLU', {'negative_slope': 0.3}).negative_slope == 0.3
    assert isinstance(make_activation('ELU'), nn.ELU)


@pytest.mark.parametrize(('name', 'params', 'message'), [
    ('Elu', None, "activation='Elu' is not a module of torch.nn: use for instance ELU"),
    ('functional', None, "activation='functional' is not a module"),
    (None, None, 'activation=None is not a module'),
    ('ReLU', {'alpha': 1.}, "parameters {'alpha': 1.0} do not fit the activation ReLU"),
])
def test_activation_refuses(name, params, message):
    with pytest.raises(ValueError, match=message):
        make_activation(name, params)


@pytest.mark.parametrize('alpha', [1.0, 0.5])
def test_elu_is_that_of_pytorch_and_keeps_only_its_result(alpha):
    ours, plain = make_activation('ELU', {'alpha': alpha}), torch.nn.ELU(alpha)
    x = torch.linspace(-6, 3, 181).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = ours(x)
    assert [tensor.data_ptr() for tensor in kept] == [y.data_ptr()]
    assert torch.equal(y, plain(x))
    weights = torch.randn(x.shape)
    actual, = torch.autograd.grad(y, x, weights)
    expected, = torch.autograd.grad(plain(x), x, weights)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_elu_has_second_derivatives():
    found = []
    for elu in (make_activation('ELU'), nn.ELU()):
        x = torch.linspace(-3, 3, 21).requires_grad_()
        slope, = torch.autograd.grad(elu(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(*found)
