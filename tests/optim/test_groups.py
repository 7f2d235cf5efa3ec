"""What the project's own optimizers take, and what they refuse."""

import copy

import pytest
import torch

from audiocodec.optim import Bfloat16Adam, MatrixDecayAdamW, Muon

OWN = [Muon, Bfloat16Adam]
SHAPES = [(3,), (4, 3), (3, 4, 2), ()]


def make(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def train(parameters, optimizer, steps=3):
    torch.manual_seed(1)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


@pytest.mark.parametrize('kind', [*OWN, MatrixDecayAdamW])
def test_parameters_names_groups_and_later_groups_are_the_same(kind):
    options = {'lr': 0.1, 'weight_decay': 0.2}

    def later(parameters):
        optimizer = kind(parameters[:1], **options)
        optimizer.add_param_group({'params': iter(parameters[1:])})
        return optimizer

    ways = [
        lambda parameters: kind(parameters, **options),
        lambda parameters: kind(iter(parameters), **options),
        lambda parameters: kind([(str(i), p) for i, p in enumerate(parameters)], **options),
        lambda parameters: kind([{'params': p, **options} for p in parameters], lr=7.0),
        lambda parameters: kind([{'params': parameters}], **options),
        later,
    ]
    results = []
    for way in ways:
        parameters = make()
        train(parameters, way(parameters))
        results.append(parameters)
    for found in results[1:]:
        for one, first in zip(found, results[0]):
            torch.testing.assert_close(one, first)


@pytest.mark.parametrize('kind', OWN)
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'lr': -1.0}, r'lr=-1\.0: expected a number >= 0'),
        ({'lr': float('nan')}, 'lr=nan: expected a number >= 0'),
        ({'eps': -1e-8}, 'eps=-1e-08: expected a number >= 0'),
        ({'weight_decay': float('inf')}, 'weight_decay=inf: expected a number >= 0'),
        ({'betas': (1.5, 0.9)}, r'betas=\[1\.5, 0\.9\]: expected two decays from 0 to below 1'),
        ({'betas': (0.9,)}, r'betas=\[0\.9\]: expected two decays from 0 to below 1'),
        ({'betas': (0.9, 1.0)}, r'betas=\[0\.9, 1\.0\]: expected two decays from 0 to below 1'),
    ],
)
def test_options_out_of_range_are_refused_also_in_groups(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(make(), **options)
    with pytest.raises(ValueError, match=message):
        kind([{'params': make(), **options}])
    optimizer = kind(make())
    groups = len(optimizer.param_groups)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({'params': make(), **options})
    assert len(optimizer.param_groups) == groups


def test_a_momentum_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r'momentum=1\.5: expected a decay from 0 to below 1'):
        Muon(make(), momentum=1.5)


def test_types_that_an_optimizer_cannot_use_are_refused():
    complex_ones = [torch.nn.Parameter(torch.zeros(3, 3, dtype=torch.cfloat))]
    for kind in OWN:
        with pytest.raises(ValueError, match=f'{kind.__name__} takes no complex parameters'):
            kind(complex_ones)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match=f'parameters of {dtype}: expected torch.float32'):
            Bfloat16Adam([torch.nn.Parameter(torch.zeros(3, 3, dtype=dtype))])


@pytest.mark.parametrize('kind', OWN)
def test_the_state_of_another_optimizer_is_refused_and_nothing_changes(kind):
    parameters = make()
    other = torch.optim.Adam(parameters)
    train(parameters, other)
    optimizer = kind(parameters)
    train(parameters, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    state = other.state_dict()
    if kind is Muon:  # as many groups
        state['param_groups'] = copy.deepcopy(before['param_groups'])
    with pytest.raises(ValueError, match=r"the state has \['exp_avg', 'exp_avg_sq', 'step'\]: it"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    for index, saved in before['state'].items():
        for name, value in saved.items():
            assert torch.equal(value, after['state'][index][name])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_long_count_survives_loading_beside_weights_in_bfloat16(dtype):
    """bfloat16 counts to 256 only."""
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    optimizer = Muon([parameter], lr=1e-3)
    train([parameter], optimizer, 300)
    other = Muon([parameter], lr=1e-3)
    other.load_state_dict(optimizer.state_dict())
    train([parameter], other, 10)
    assert other.state[parameter]['step'] == 310
    assert other.state[parameter]['step'].dtype == torch.float32


def test_states_of_earlier_versions_are_read():
    """They called `step` `steps`."""
    parameters = make()
    optimizer = Muon(parameters)
    train(parameters, optimizer)
    old = optimizer.state_dict()
    old['state'] = {
        index: {'steps' if name == 'step' else name: value for name, value in state.items()}
        for index, state in old['state'].items()
    }
    other = Muon(parameters)
    other.load_state_dict(old)
    assert [other.state[p]['step'].item() for p in parameters if p.dim() < 2] == [3, 3]


def test_weights_without_decay_stay_in_one_group():
    assert len(MatrixDecayAdamW(make(), weight_decay=0.0).param_groups) == 1
