"""Snake equals its formula, and so do its gradients."""

import pytest
import torch

from audiocodec.modules import SEANetEncoder, Snake
from audiocodec.modules.activation import make_activation
from audiocodec.modules.reach import reads


def formula(x, alpha):
    return x + (alpha * x).sin().square() / (alpha + 1e-9)


@pytest.mark.parametrize('training', [True, False])
def test_values_equal_the_formula(training):
    torch.manual_seed(0)
    snake = Snake(3)
    snake.alpha.data = torch.tensor([0.01, 1.0, 7.0]).view(1, 3, 1)
    x = 3 * torch.randn(2, 3, 50)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(snake(x), formula(x, snake.alpha), rtol=1e-6, atol=1e-6)


def test_gradients_equal_those_of_the_formula():
    torch.manual_seed(1)
    snake = Snake(4).double()
    snake.alpha.data = torch.rand(1, 4, 1, dtype=torch.float64) + 0.1
    x = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, alpha: _with(snake, alpha, x), (x, snake.alpha))
    # a transposed input, and one that needs no gradient itself
    y = torch.randn(2, 9, 4, dtype=torch.float64).transpose(1, 2)
    grad = torch.randn_like(y)
    (ours,) = torch.autograd.grad(snake(y), snake.alpha, grad)
    (theirs,) = torch.autograd.grad(formula(y, snake.alpha), snake.alpha, grad)
    torch.testing.assert_close(ours, theirs)


def _with(snake, alpha, x):
    return torch.func.functional_call(snake, {'alpha': alpha}, (x,))


def test_it_is_an_activation_of_seanet_with_a_frequency_per_channel():
    encoder = SEANetEncoder(
        n_filters=4, dimension=6, ratios=(4, 2), activation='audiocodec.modules.Snake'
    )
    shapes = [part.alpha.shape[1] for part in encoder.modules() if isinstance(part, Snake)]
    assert set(shapes) == {2, 4, 8, 16}
    encoder(torch.randn(2, 1, 32)).square().mean().backward()
    assert all(part.alpha.grad.any() for part in encoder.modules() if isinstance(part, Snake))
    assert reads(make_activation('audiocodec.modules.Snake', channels=3), 2, 5) == (2, 5)


def test_under_autocast_it_keeps_the_type_of_its_input():
    x = torch.randn(1, 2, 5, dtype=torch.bfloat16)
    assert Snake(2)(x).dtype == torch.bfloat16


@pytest.mark.parametrize(('arguments', 'name'), [((0,), 'channels=0'), ((2, 0.0), 'alpha=0.0')])
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        Snake(*arguments)
