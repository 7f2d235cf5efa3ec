import pytest
import torch

from audiocodec.optim import Bfloat16Adam, bfloat16_adam
from audiocodec.optim.step import step_if

SHAPES = [(40, 30), (30,), (7, 5, 3)]


def make(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def train(parameters, optimizer, seeds):
    for seed in seeds:
        torch.manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


@pytest.mark.parametrize('chunk', [1, 1300, 10**6])
@pytest.mark.parametrize('betas', [(0.5, 0.9), (0.9, 0.99)])
def test_steps_are_nearly_those_of_adam(betas, chunk, monkeypatch):
    monkeypatch.setattr(bfloat16_adam, '_CHUNK', chunk)
    start, ours, peers = make(), make(), make()
    options = {'lr': 0.01, 'betas': betas, 'weight_decay': 0.1}
    train(ours, Bfloat16Adam(ours, **options), range(50))
    train(peers, torch.optim.Adam(peers, **options), range(50))
    for before, mine, other in zip(start, ours, peers):
        assert (mine - other).norm() < 0.01 * (other - before).norm()


def test_the_first_step_is_that_of_adam():
    """Nothing was rounded before it."""
    ours, peers = make(), make()
    train(ours, Bfloat16Adam(ours, lr=0.1), [1])
    train(peers, torch.optim.Adam(peers, lr=0.1, betas=(0.9, 0.99)), [1])
    for mine, other in zip(ours, peers):
        torch.testing.assert_close(mine, other)


def test_the_square_follows_a_gradient_that_falls_and_rises():
    parameter = torch.nn.Parameter(torch.zeros(100))
    optimizer = Bfloat16Adam([parameter])
    for scale in (1.0, 1e-2, 1.0):
        for _ in range(2000):
            parameter.grad = scale * torch.randn(100)
            optimizer.step()
        square = optimizer.state[parameter]['square'].float().mean()
        assert 0.9 < square / scale**2 < 1.1


@pytest.mark.parametrize(('betas', 'longest'), [((0.5, 0.9), 1.02), ((0.9, 0.99), 1.17)])
def test_how_long_the_steps_of_a_constant_gradient_are(betas, longest):
    parameter = torch.nn.Parameter(torch.zeros(1000))
    optimizer = Bfloat16Adam([parameter], lr=1.0, betas=betas)
    gradient = torch.linspace(1, 2, 1000)  # all mantissas
    for _ in range(2000):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
    assert 0.98 < (before - parameter).max() < longest


@pytest.mark.parametrize('betas', [(0.9, 0.999), (0.995, 0.9), (0.9, 0.991)])
def test_decays_that_bfloat16_cannot_hold_are_refused(betas):
    with pytest.raises(ValueError, match=r'from 0 to 0\.99.*use torch\.optim\.Adam') as caught:
        Bfloat16Adam(make(), betas=betas)
    assert str(list(betas)) in str(caught.value)


def test_a_step_that_is_not_finite_changes_nothing():
    parameters = make()
    optimizer = Bfloat16Adam(parameters, weight_decay=0.1)
    train(parameters, optimizer, range(2))
    kept = [p.detach().clone() for p in parameters]
    state = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    step_if(optimizer, torch.tensor(False))
    for parameter, value, saved in zip(parameters, kept, state):
        assert torch.equal(parameter, value)
        for name, tensor in saved.items():
            assert torch.equal(tensor, optimizer.state[parameter][name])


def test_a_restored_optimizer_goes_on_exactly_and_in_bfloat16():
    whole = make()
    train(whole, Bfloat16Adam(whole), range(4))
    first = make()
    optimizer = Bfloat16Adam(first)
    train(first, optimizer, range(2))
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    resumed = Bfloat16Adam(second)
    resumed.load_state_dict(optimizer.state_dict())
    for parameter in second:
        state = resumed.state[parameter]
        assert [state[name].dtype for name in ('mean', 'square')] == [torch.bfloat16] * 2
    train(second, resumed, range(2, 4))
    assert all(map(torch.equal, whole, second))
