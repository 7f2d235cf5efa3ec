import pytest
import torch

from audiocodec.optim import Muon, muon
from audiocodec.optim.muon import orthogonalized
from audiocodec.optim.step import step_if


@pytest.mark.parametrize('shape', [(8, 8), (6, 40), (40, 6)])
def test_orthogonalized_has_the_singular_vectors_of_the_matrix_and_equal_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) + 3  # one large singular value
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalized(matrix) @ vh.T
    diagonal = found.diag()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.25
    torch.testing.assert_close(found, torch.diag(diagonal), atol=2e-5, rtol=0)


@pytest.mark.parametrize('shape', [(6, 40), (16, 48), (64, 1024)])
def test_iterating_on_squares_is_iterating(shape):
    """Also where singular values differ by five orders of magnitude."""
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -5, shape[1]))
    matrix = matrix / matrix.norm()
    expected = muon._iterated(matrix.double())
    precise = muon._iterated_on_squares(matrix.double())
    torch.testing.assert_close(precise, expected, atol=1e-10, rtol=0)
    found = muon._iterated_on_squares(matrix).double()
    assert (found - expected).norm() / expected.norm() < 1e-3


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='PyTorch 2.9')
def test_matrices_take_the_steps_of_pytorchs_muon():
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(16, 48))
    peers = torch.nn.Parameter(ours.detach().clone())
    options = {'lr': 0.01, 'momentum': 0.9, 'weight_decay': 0.1}
    optimizers = [
        Muon([ours], **options),
        torch.optim.Muon([peers], adjust_lr_fn='match_rms_adamw', **options),
    ]
    start = ours.detach().clone()
    for _ in range(5):
        gradient = torch.randn(16, 48)
        for parameter, optimizer in zip((ours, peers), optimizers):
            parameter.grad = gradient.clone()
            optimizer.step()
    # PyTorch's iterates in bfloat16.
    difference = (ours - peers).norm() / (peers - start).norm()
    assert difference < 0.02


def test_kernels_are_matrices_and_scales_of_weight_norm_are_not():
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5))
    optimizer = Muon(conv.parameters())
    shapes = {
        group['orthogonal']: sorted(tuple(p.shape) for p in group['params'])
        for group in optimizer.param_groups
    }
    assert shapes == {True: [(4, 3, 5)], False: [(4,), (4, 1, 1)]}


def test_vectors_take_the_steps_of_adam():
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(7))
    peers = torch.nn.Parameter(ours.detach().clone())
    optimizers = [Muon([ours], lr=0.01), torch.optim.Adam([peers], lr=0.01, betas=(0.9, 0.99))]
    for _ in range(5):
        gradient = torch.randn(7)
        for parameter, optimizer in zip((ours, peers), optimizers):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, peers, atol=1e-6, rtol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(3))]
    optimizer = Muon(parameters, weight_decay=0.1)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        step_if(optimizer, torch.tensor(True))
    kept = [p.detach().clone() for p in parameters]
    state = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    step_if(optimizer, torch.tensor(False))
    for parameter, value, saved in zip(parameters, kept, state):
        assert torch.equal(parameter, value)
        assert saved.keys() == optimizer.state[parameter].keys()
        for name, tensor in saved.items():
            assert torch.equal(tensor, optimizer.state[parameter][name])


def test_a_restored_optimizer_goes_on_exactly():
    torch.manual_seed(0)
    gradients = [(torch.randn(4, 6), torch.randn(4)) for _ in range(4)]

    def make():
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(4))]
        return parameters, Muon(parameters)

    def train(parameters, optimizer, pairs):
        for pair in pairs:
            for parameter, gradient in zip(parameters, pair):
                parameter.grad = gradient.clone()
            optimizer.step()

    whole, optimizer = make()
    train(whole, optimizer, gradients)
    first, optimizer = make()
    train(first, optimizer, gradients[:2])
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    resumed = Muon(second)
    resumed.load_state_dict(optimizer.state_dict())
    train(second, resumed, gradients[2:])
    assert all(map(torch.equal, whole, second))
