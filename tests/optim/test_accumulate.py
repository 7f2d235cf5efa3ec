import copy
import pickle

import pytest
import torch
from torch import nn

from audiocodec.modules.norm import normalize_weight
from audiocodec.optim.accumulate import in_micro_batches, same_state


def layers(norm='none'):
    torch.manual_seed(0)
    return nn.Sequential(
        normalize_weight(nn.Conv1d(2, 8, 5, padding=2), norm),
        nn.ELU(inplace=True),
        normalize_weight(nn.Conv1d(8, 4, 5), norm),
    )


def results(module, x):
    """Return the output, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = module(x)
    loss = (y.float() * torch.linspace(-1, 1, y[0].numel()).view_as(y[0])).square().mean()
    return y.detach(), torch.autograd.grad(loss, [x, *module.parameters()])


@pytest.mark.parametrize('norm', ['none', 'weight_norm', 'spectral_norm'])
@pytest.mark.parametrize('number', [2, 3, 4])
def test_the_result_and_the_state_are_those_of_the_whole_batch(norm, number):
    whole, divided = layers(norm), layers(norm)
    in_micro_batches(divided, number)
    x = torch.randn(8, 2, 50)
    for _ in range(3):
        expected, expected_grads = results(whole, x)
        y, grads = results(divided, x)
        assert torch.equal(y, expected)
        torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, divided.state_dict()[name]), name
    with torch.no_grad():
        torch.testing.assert_close(divided(x[:5]), whole(x[:5]))


def test_only_one_micro_batch_has_activations_at_a_time():
    class Counted(nn.Module):
        def forward(self, x):
            return _Counted.apply(x).sin()

    class _Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            events.append(('forward', len(x)))
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            events.append(('backward', len(grad)))
            return grad

    events = []
    module = Counted()
    in_micro_batches(module, 3)
    y = module(torch.ones(6, 2, requires_grad=True))
    assert events == [('forward', 2)] * 3
    del events[:]
    y.sum().backward()
    assert events == [('forward', 2), ('backward', 2)] * 3


def test_the_second_computation_is_under_the_autocast_of_the_first():
    whole, divided = layers(), layers()
    in_micro_batches(divided, 2)
    x = torch.randn(4, 2, 50)
    found = []
    for module in (whole, divided):
        with torch.autocast('cpu', torch.bfloat16, cache_enabled=False):
            y = module(x)
        assert y.dtype == torch.bfloat16
        found.append(torch.autograd.grad(y.float().square().mean(), [*module.parameters()]))
    torch.testing.assert_close(*found, rtol=2e-2, atol=1e-3)


def test_the_second_computation_draws_what_the_first_has_drawn():
    module = nn.Dropout(0.5)
    in_micro_batches(module, 2)
    x = torch.ones(4, 100, requires_grad=True)
    y = module(x)
    state = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert torch.equal(torch.get_rng_state(), state)


def test_copies_and_pickled_modules_are_plain():
    module = layers('weight_norm')
    names = list(module.state_dict())
    in_micro_batches(module, 2)
    assert list(module.state_dict()) == names
    x = torch.randn(4, 2, 50)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other._compiled_call_impl is None
        assert torch.equal(other(x), module(x))


def test_a_batch_norm_is_refused():
    with pytest.raises(ValueError, match=r'Sequential\.1 is a BatchNorm1d, whose statistics'):
        in_micro_batches(nn.Sequential(nn.ELU(), nn.BatchNorm1d(3)), 2)


def test_the_same_state_is_that_of_the_first_step():
    module, other = layers('spectral_norm'), layers('spectral_norm')
    x = torch.randn(4, 2, 50)
    first = [other(x), other(x)]  # two steps of the power iteration
    for _, _ in zip(range(3), same_state(module)):
        assert torch.equal(module(x), first[0])
        assert torch.equal(module(x), first[1])
    for name, value in other.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name
