import io
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiocodec.optim import (
    CosineSchedule,
    InverseSquareRootSchedule,
    LinearWarmupSchedule,
    PolynomialDecaySchedule,
    WarmupStableDecaySchedule,
    advance,
)

PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'
AUDIOCRAFT = {
    'cosine': CosineSchedule,
    'polynomial_decay': PolynomialDecaySchedule,
    'inverse_sqrt': InverseSquareRootSchedule,
    'linear_warmup': LinearWarmupSchedule,
}
SCHEDULES = {**AUDIOCRAFT, 'warmup_stable_decay': WarmupStableDecaySchedule}


def make_optimizer(lr=1.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule, steps):
    values = []
    for _ in range(steps):
        values.append(schedule.optimizer.param_groups[0]['lr'])
        schedule.optimizer.step()
        schedule.step()
    return values


def arguments(name):
    if name not in AUDIOCRAFT:
        return {'total_steps': 50, 'warmup_steps': 5, 'decay_steps': 10, 'lr_min_ratio': 0.1}
    return json.loads((PARITY / 'training_parts.json').read_text())[f'schedule.{name}']


@pytest.mark.parametrize('name', AUDIOCRAFT)
def test_rates_equal_those_of_audiocraft(name):
    expected = load_file(PARITY / 'training_parts.safetensors')[f'schedule.{name}']
    schedule = SCHEDULES[name](make_optimizer(), **arguments(name))
    assert rates(schedule, len(expected)) == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_are_proportional_to_the_base_rate_of_each_group(name):
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{'params': [first], 'lr': 1.0}, {'params': [second], 'lr': 0.5}])
    kwargs = {
        key: value
        for key, value in arguments(name).items()
        if key not in ('end_lr', 'warmup_init_lr')
    }
    schedule = SCHEDULES[name](optimizer, **kwargs)
    for _ in range(30):
        optimizer.step()
        schedule.step()
        one, half = (group['lr'] for group in optimizer.param_groups)
        assert one > 0
        assert half == pytest.approx(0.5 * one)


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('done', [0, 7, 25])
def test_resuming_is_exact(name, done):
    expected = rates(SCHEDULES[name](make_optimizer(), **arguments(name)), 60)
    first = SCHEDULES[name](make_optimizer(), **arguments(name))
    rates(first, done)
    file = io.BytesIO()
    torch.save([first.optimizer.state_dict(), first.state_dict()], file)
    file.seek(0)
    second = SCHEDULES[name](make_optimizer(), **arguments(name))
    optimizer_state, state = torch.load(file, weights_only=True)
    second.optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(state)
    assert rates(second, 60 - done) == expected[done:]


@pytest.mark.parametrize('name', SCHEDULES)
def test_no_warning_when_the_first_update_is_skipped(name):
    schedule = SCHEDULES[name](make_optimizer(), **arguments(name))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        advance(schedule)
    assert schedule.last_epoch == 1


def test_cosine_stays_at_its_minimum_after_its_end():
    schedule = CosineSchedule(make_optimizer(), total_steps=10, warmup_steps=0, lr_min_ratio=0.1)
    assert rates(schedule, 14)[10:] == pytest.approx([0.1] * 4)


def test_short_cycles_return_to_the_base_rate():
    schedule = CosineSchedule(make_optimizer(), total_steps=20, warmup_steps=0, cycle_length=0.5)
    values = rates(schedule, 21)
    assert values[10] == pytest.approx(0.0)
    assert values[20] == pytest.approx(1.0)


def test_warmup_stable_decay_falls_at_the_end_only():
    arguments = {'total_steps': 10, 'warmup_steps': 2, 'decay_steps': 4, 'lr_min_ratio': 0.1}
    linear = WarmupStableDecaySchedule(make_optimizer(), **arguments, power=1)
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1]
    assert rates(linear, 12) == pytest.approx(expected)
    steep = WarmupStableDecaySchedule(make_optimizer(2.0), **arguments)
    assert rates(steep, 12)[6:] == pytest.approx(
        [2.0, 1.1, 2 - 1.8 * 0.5**0.5, 2 - 1.8 * 0.75**0.5, 0.2, 0.2]
    )


def test_polynomial_schedule_with_zero_rate_and_warmup():
    schedule = PolynomialDecaySchedule(
        make_optimizer(),
        warmup_steps=4,
        total_steps=10,
        end_lr=0.2,
        zero_lr_warmup_steps=2,
        power=1,
    )
    expected = [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert rates(schedule, 12) == pytest.approx(expected)


def test_without_warmup():
    assert rates(LinearWarmupSchedule(make_optimizer(), warmup_steps=0), 3) == [1.0, 1.0, 1.0]
    assert rates(PolynomialDecaySchedule(make_optimizer(), 0, 4), 3) == pytest.approx(
        [1.0, 0.75, 0.5]
    )
    assert rates(InverseSquareRootSchedule(make_optimizer(), 1, None), 4)[3] == pytest.approx(0.5)


def test_a_run_may_consist_of_warmup_only():
    assert rates(CosineSchedule(make_optimizer(), 1, 1), 3) == [0.0, 1.0, 0.0]
    assert rates(CosineSchedule(make_optimizer(), 1, 1, cycle_length=0.5), 3) == [0.0, 1.0, 0.0]
    assert rates(PolynomialDecaySchedule(make_optimizer(), 1, 1), 3) == [0.0, 1.0, 0.0]
    assert rates(WarmupStableDecaySchedule(make_optimizer(), 1, 1, 1), 3) == [0.0, 0.0, 0.0]
    assert rates(PolynomialDecaySchedule(make_optimizer(), 1, 2, zero_lr_warmup_steps=1), 4) == [
        0.0,
        0.0,
        1.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ('schedule', 'kwargs', 'message'),
    [
        (
            CosineSchedule,
            {'total_steps': 9, 'warmup_steps': 10},
            'total_steps must be at least the 10 updates',
        ),
        (
            CosineSchedule,
            {'total_steps': None, 'warmup_steps': 10},
            'total_steps must be at least the 10 updates of the warm-up .*, got None',
        ),
        (
            CosineSchedule,
            {'total_steps': 10, 'warmup_steps': -1},
            'warmup_steps must be at least 0, got -1',
        ),
        (
            CosineSchedule,
            {'total_steps': 10, 'warmup_steps': 0, 'lr_min_ratio': 2.0},
            'lr_min_ratio',
        ),
        (
            CosineSchedule,
            {'total_steps': 10, 'warmup_steps': 0, 'cycle_length': 0.0},
            'cycle_length',
        ),
        (
            WarmupStableDecaySchedule,
            {'total_steps': 9, 'warmup_steps': 1, 'decay_steps': 10},
            'decay_steps must be from 1 to the 9 updates of the run',
        ),
        (
            WarmupStableDecaySchedule,
            {'total_steps': 9, 'warmup_steps': 1, 'decay_steps': 4, 'power': 0.0},
            'power must be positive',
        ),
        (
            PolynomialDecaySchedule,
            {'total_steps': 9, 'warmup_steps': 6, 'zero_lr_warmup_steps': 4},
            'total_steps',
        ),
        (
            PolynomialDecaySchedule,
            {'total_steps': 10, 'warmup_steps': 0, 'zero_lr_warmup_steps': -1},
            'zero_lr',
        ),
        (PolynomialDecaySchedule, {'total_steps': 10, 'warmup_steps': 0, 'end_lr': -1.0}, 'end_lr'),
        (PolynomialDecaySchedule, {'total_steps': 10, 'warmup_steps': 0, 'power': 0.0}, 'power'),
        (InverseSquareRootSchedule, {'warmup_steps': 0}, 'warmup_steps must be at least 1'),
        (LinearWarmupSchedule, {'warmup_steps': -1}, 'warmup_steps'),
        (LinearWarmupSchedule, {'warmup_steps': 1, 'warmup_init_lr': -1.0}, 'warmup_init_lr'),
    ],
)
def test_bad_arguments_are_named(schedule, kwargs, message):
    with pytest.raises(ValueError, match=message):
        schedule(make_optimizer(), **kwargs)
