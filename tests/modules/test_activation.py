import sys

import pytest
import torch
from torch import nn

from audiocodec.modules import SEANetDecoder, SEANetEncoder, make_activation
from audiocodec.utils import config


def test_activation_by_name():
    assert make_activation('LeakyReLU', {'negative_slope': 0.3}).negative_slope == 0.3
    assert isinstance(make_activation('ELU'), nn.ELU)


@pytest.mark.parametrize(
    ('name', 'params', 'message'),
    [
        ('Elu', None, "activation='Elu' is not a module of torch.nn: use ELU, LeakyReLU or Tanh"),
        ('functional', None, "activation='functional' is not a module"),
        (None, None, 'activation=None is not a module'),
        ('ReLU', {'alpha': 1.0}, "parameters {'alpha': 1.0} do not fit the activation ReLU"),
    ],
)
def test_unknown_activations_and_parameters_are_refused(name, params, message):
    with pytest.raises(ValueError, match=message):
        make_activation(name, params)


@pytest.mark.parametrize('alpha', [1.0, 0.5])
def test_elu_equals_pytorch_and_saves_only_its_output(alpha):
    ours, plain = make_activation('ELU', {'alpha': alpha}), torch.nn.ELU(alpha)
    x = torch.linspace(-6, 3, 181).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        y = ours(x)
    assert [tensor.data_ptr() for tensor in saved] == [y.data_ptr()]
    assert torch.equal(y, plain(x))
    weights = torch.randn(x.shape)
    (actual,) = torch.autograd.grad(y, x, weights)
    (expected,) = torch.autograd.grad(plain(x), x, weights)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_elu_has_second_derivatives():
    found = []
    for elu in (make_activation('ELU'), nn.ELU()):
        x = torch.linspace(-3, 3, 21).requires_grad_()
        (slope,) = torch.autograd.grad(elu(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(*found)


SNAKE = '''
import torch

class Snake(torch.nn.Module):
    """x + sin^2(a x) / a, with one parameter per channel."""

    def __init__(self, channels, init=1.):
        super().__init__()
        self.alpha = torch.nn.Parameter(torch.full((channels, 1), init))

    def forward(self, x):
        return x + (self.alpha * x).sin().square() / self.alpha
'''


@pytest.fixture
def snake(tmp_path, monkeypatch):
    (tmp_path / 'wavy.py').write_text(SNAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', [*config.ALLOWED_PREFIXES, 'wavy.'])
    yield 'wavy.Snake'
    sys.modules.pop('wavy', None)


def test_custom_activation_has_parameters_per_channel(snake):
    options = {
        'n_filters': 4,
        'dimension': 8,
        'n_residual_layers': 1,
        'ratios': [4, 2],
        'activation': snake,
        'activation_params': {'init': 0.5},
    }
    encoder = SEANetEncoder(**options)
    decoder = SEANetDecoder(**options, final_activation=snake)

    def widths(model):
        snakes = [module for module in model.modules() if type(module).__name__ == 'Snake']
        return [module.alpha.shape[0] for module in snakes]

    assert widths(encoder) == [4, 2, 4, 8, 4, 8, 16]
    assert widths(decoder) == [16, 8, 4, 8, 4, 2, 4, 1]
    assert encoder.model[1].block[0].alpha.flatten().tolist() == [0.5] * 4
    wav = torch.randn(2, 1, 64)
    assert decoder(encoder(wav)).shape == wav.shape


def test_custom_activation_must_be_allowed_and_keep_the_shape(snake, monkeypatch):
    with pytest.raises(
        ValueError, match=r"activation='GLU' maps the shape \[1, 4, 1\] to \[1, 2, 1\]"
    ):
        make_activation('GLU', {'dim': 1}, 4)
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', ['torch.nn.'])
    with pytest.raises(ValueError, match=r"_target_ 'wavy.Snake' is not allowed"):
        make_activation(snake)
