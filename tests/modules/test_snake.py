import copy

import pytest
import torch

from audiocodec.modules import SEANetDecoder, SEANetEncoder, Snake, make_activation
from audiocodec.modules import snake as implementation


def plain(x, alpha):
    return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)


def make(channels=3, dtype=torch.float32):
    module = Snake(channels).to(dtype)
    with torch.no_grad():
        module.alpha.copy_(torch.linspace(0.2, 2, channels, dtype=dtype).view(1, -1, 1))
    return module


def test_the_activation_of_every_width_has_an_alpha_per_channel():
    snake = make_activation('audiocodec.modules.Snake', channels=5)
    assert isinstance(snake, Snake)
    assert snake.alpha.shape == (1, 5, 1)
    assert torch.equal(snake.alpha, torch.ones(1, 5, 1))
    assert repr(snake) == 'Snake(5)'
    with pytest.raises(ValueError, match='channels=0'):
        Snake(0)


@pytest.mark.parametrize('size', [1, 7, 40, 2**18])
@pytest.mark.parametrize('transposed', [False, True])
def test_parts_of_any_size_give_the_same_values_and_gradients(monkeypatch, size, transposed):
    monkeypatch.setattr(implementation, '_CACHED', size)
    x = 3 * torch.randn(2, 3, 11)
    if transposed:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    x.requires_grad_()
    module, weights = make(), torch.randn(2, 3, 11)
    y = module(x)
    expected = plain(x, module.alpha)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    inputs = (x, module.alpha)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, weights), torch.autograd.grad(expected, inputs, weights)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(module(x), y)
        out = x.clone()
        assert implementation.snake(out, module.alpha, out=out) is out
        torch.testing.assert_close(out, y.detach(), rtol=0, atol=0)


def test_gradients_are_exact():
    module = make(dtype=torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda x, alpha: torch.func.functional_call(module, {'alpha': alpha}, (x,)),
        (x, module.alpha),
    )


def test_alpha_of_zero_is_the_identity_and_frozen_alpha_has_no_gradient():
    module = Snake(2)
    with torch.no_grad():
        module.alpha.zero_()
    x = torch.randn(1, 2, 4, requires_grad=True)
    module(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(1, 2, 4))
    assert torch.equal(module.alpha.grad, torch.zeros(1, 2, 1))
    module.requires_grad_(False).zero_grad()
    module(x).sum().backward()
    assert module.alpha.grad is None


def test_it_saves_its_input_its_output_and_alpha():
    module, x = make(), torch.randn(1, 3, 4, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        y = module(x)
    assert [tensor.data_ptr() for tensor in saved] == [
        x.data_ptr(),
        y.data_ptr(),
        module.alpha.data_ptr(),
    ]


def test_an_empty_signal_stays_empty():
    assert make()(torch.zeros(2, 3, 0)).shape == (2, 3, 0)


def test_seanet_with_snake_trains():
    options = {
        'dimension': 4,
        'n_filters': 2,
        'ratios': [3, 2],
        'activation': 'audiocodec.modules.Snake',
    }
    encoder, decoder = SEANetEncoder(**options), SEANetDecoder(**options)
    decoder(encoder(torch.randn(2, 1, 13))).square().mean().backward()
    snakes = [module for module in encoder.modules() if isinstance(module, Snake)]
    assert [snake.alpha.shape[1] for snake in snakes[-2:]] == [4, 8]
    assert all(snake.alpha.grad.abs().sum() > 0 for snake in snakes)
    assert copy.deepcopy(encoder).model[1] is not encoder.model[1]
