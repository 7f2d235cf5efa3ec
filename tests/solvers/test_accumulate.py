"""Updates in micro-batches compute what an update on the whole batch computes."""

import pytest
import torch
from tiny import TINY

from audiocodec.utils.config import ConfigError

# Quantizer dropout and dead codes. Adam's first updates would amplify rounding without eps: it
# divides by the gradient.
OPTIONS = [
    'rvq.q_dropout=true',
    'rvq.threshold_ema_dead_code=10',
    'seanet.lstm=1',
    'dataset.batch_size=8',
    '+optim.optimizer.eps=1e-2',
    '+adversarial.optimizer.eps=1e-2',
]
PLAIN = [
    *OPTIONS,
    'adversarial=msstftd_mpd',
    'adversarial.discriminators.msstftd.filters=2',
    'adversarial.discriminators.msstftd.n_ffts=[256]',
    'adversarial.discriminators.msstftd.hop_lengths=[64]',
    'adversarial.discriminators.msstftd.win_lengths=[256]',
    'adversarial.discriminators.mpd.filters=2',
    'adversarial.discriminators.mpd.periods=[2,3]',
    'adversarial.discriminators.mpd.max_filters=8',
]
# Modules with a state that changes in each call.
SPECTRAL = [
    *OPTIONS,
    'seanet.norm=spectral_norm',
    'adversarial=msd',
    'adversarial.discriminators.msd.filters=4',
    'adversarial.discriminators.msd.max_filters=16',
    'adversarial.discriminators.msd.scale_norms=[spectral_norm,weight_norm]',
]
BASE = [option for option in TINY if not option.startswith('adversarial')]


def batch(seed, size=8):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(size, 1, 2000, generator=generator)


def trained(solver, updates=3):
    solver.model.train()
    history = [solver.run_step(batch(seed)) for seed in range(updates)]
    return history, solver.state_dict()


def assert_close(one, other, tolerance, path=''):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], tolerance, f'{path}.{key}')
    elif isinstance(one, torch.Tensor) and one.is_floating_point() and one.numel():
        atol = tolerance * float(other.detach().abs().max()) + 1e-7
        torch.testing.assert_close(one, other, rtol=0, atol=atol, msg=lambda text: path + text)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other)):
            assert_close(*pair, tolerance, f'{path}.{number}')
    else:
        assert one == other, path


@pytest.mark.parametrize(
    ('options', 'number'), [(PLAIN, 2), (PLAIN, 4), (SPECTRAL, 4)], ids=['2', '4', 'spectral']
)
def test_the_updates_are_those_of_the_whole_batch(make_solver, options, number):
    history, whole = trained(make_solver(*options, base=BASE))
    found, state = trained(make_solver(*options, f'optim.accumulate={number}', base=BASE))
    assert history[0].keys() == found[0].keys()
    # Before the first step of an optimizer, nothing is summed in another order.
    for name in ('l1', 'msspec', 'commitment', 'usage', 'perplexity', 'dead', 'bandwidth'):
        assert torch.equal(history[0][name], found[0][name]), name
    assert_close(found, history, 1e-3)
    assert_close(state, whole, 1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::FutureWarning')
def test_compiled_parts_run_in_micro_batches(make_solver, monkeypatch):
    from torch._dynamo.utils import counters

    compiled = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda part, **_: compiled(part, backend='aot_eager'))
    options = [*OPTIONS, 'seanet.lstm=0', 'adversarial=none']
    history, whole = trained(make_solver(*options, base=BASE))
    counters.clear()
    solver = make_solver(*options, 'compile=true', 'optim.accumulate=4', base=BASE)
    found, state = trained(solver)
    assert counters['stats']['unique_graphs'] >= 2
    assert_close(found, history, 1e-3)
    assert_close(state, whole, 1e-3)


def test_a_part_of_the_batch_is_not_the_batch(make_solver):
    """The comparison above notices an update on half of the batch."""
    _, whole = trained(make_solver(*PLAIN, base=BASE), updates=1)
    solver = make_solver(*PLAIN, base=BASE)
    solver.model.train()
    solver.run_step(batch(0)[:4])
    with pytest.raises(AssertionError):
        assert_close(solver.state_dict(), whole, 1e-3)


def test_validation_of_a_smaller_last_batch(make_solver):
    losses = []
    for number in (1, 4):
        solver = make_solver(*PLAIN, f'optim.accumulate={number}', base=BASE)
        solver.adversaries.updates = 1
        with solver.averaged_model():
            losses.append(solver.valid_step(batch(5, size=7)))
    assert_close(*losses, 1e-5)


def test_the_state_dict_is_the_same(make_solver):
    names = [
        list(make_solver(f'optim.accumulate={number}').state_dict()['model']) for number in (1, 2)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ('overrides', 'expected'),
    [
        (['optim.accumulate=0'], 'optim.accumulate=0: expected a positive integer'),
        (
            ['optim.accumulate=4', 'dataset.batch_size=6'],
            'optim.accumulate=4: dataset.batch_size=6 does not divide into 4 micro-batches of '
            'equal size; use a multiple of 4',
        ),
        (
            ['optim.accumulate=4', 'dataset.train.batch_size=6'],
            'optim.accumulate=4: dataset.batch_size=6',
        ),
    ],
)
def test_batches_that_do_not_divide_are_refused(make_solver, overrides, expected):
    with pytest.raises(ConfigError) as error:
        make_solver(*overrides)
    assert expected in str(error.value)


def test_the_batch_of_each_worker_must_divide(make_solver, monkeypatch):
    from audiocodec.recipe import check
    from audiocodec.run.launch import Place

    monkeypatch.setattr(check, 'find_place', lambda: Place(0, 2, 0, 2))
    with pytest.raises(ConfigError, match='on each of 2 workers; use a multiple of 8'):
        make_solver('optim.accumulate=4', 'dataset.batch_size=12')


def test_batch_norms_are_refused(make_solver):
    with pytest.raises(ConfigError) as error:
        make_solver('optim.accumulate=2', 'seanet.activation=BatchNorm1d')
    assert 'BatchNorm1d' in str(error.value)
