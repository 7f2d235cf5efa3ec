"""Training in float16: its gradients, its loss scales, and updates that these skip."""

import pytest
import torch
from tiny import TINY

from audiocodec.optim import loss_scale
from audiocodec.run import checkpoint

# A CPU computes in float16 slowly.
SMALL = [
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'adversarial.discriminators.msstftd.n_ffts=[128]',
    'adversarial.discriminators.msstftd.hop_lengths=[32]',
    'adversarial.discriminators.msstftd.win_lengths=[128]',
]
BASE = [option for option in TINY if not option.startswith('adversarial')]
HALF = [*SMALL, 'precision.autocast=float16']


def batch(seed, size=2):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(size, 1, 1280, generator=generator)


def set_scales(solver, model, adversaries):
    for scale, value in (
        (solver.loss_scales.model, model),
        (solver.loss_scales.adversaries, adversaries),
    ):
        scale.largest = 2.0**99
        scale.scale.fill_(value)


def scales(solver):
    found = solver.loss_scales
    return found.model.scale.item(), found.adversaries.scale.item()


def gradients(solver):
    """Return the gradients of discriminators and model in the first update."""
    found = []
    for optimizer in (solver.adversaries.optimizer, solver.optimizer):
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        optimizer.register_step_pre_hook(
            lambda *_, parameters=parameters: found.append(
                torch.cat([parameter.grad.flatten() for parameter in parameters])
            )
        )
    solver.model.train()
    if hasattr(solver.loss_scales.model, 'scale'):
        set_scales(solver, 2.0**10, 2.0**16)
    solver.run_step(batch(0))
    return found


def errors(make_solver, *options):
    """Return the errors of gradients in float16, relative to their norms: adversaries, model."""
    # Without a quantizer, whose codes are other ones after rounding, and with discriminators that
    # do not move, as their first step is of a fixed size in whatever direction.
    options = ['quantizer=none', 'adversarial.lr_ratio=1e-9', *options]
    base = [option for option in TINY if not option.startswith('rvq')]
    half, full = (gradients(make_solver(*more, *options, base=base)) for more in (HALF, SMALL))
    return [float((a - b).norm() / b.norm()) for a, b in zip(half, full, strict=True)]


@pytest.mark.parametrize('options', [[], ['optim.accumulate=2', 'seanet.lstm=1']])
def test_gradients_are_those_of_float32(make_solver, options):
    adversaries, model = errors(make_solver, 'dataset.batch_size=2', *options)
    assert model < 0.01
    # Of fresh discriminators, the gradients for fake and real audio cancel out: not their errors.
    assert adversaries < 0.4


def test_without_a_scale_gradients_would_vanish(make_solver, monkeypatch):
    options = ['balancer.total_norm=1e-6']
    assert errors(make_solver, *options)[1] < 0.01
    monkeypatch.setattr(loss_scale.DynamicLossScale, 'scaled', lambda self, value: value)
    monkeypatch.setattr(loss_scale.DynamicLossScale, 'unscale_', lambda self, gradients: None)
    assert errors(make_solver, *options)[1] > 0.5


@pytest.mark.parametrize(
    ('before', 'after'), [((2.0**40, 2.0**10), (2.0**39, 2.0**10)), ((64, 2.0**60), (64, 2.0**59))]
)
def test_an_overflow_skips_the_update_and_halves_the_scale(make_solver, before, after):
    solver = make_solver(*HALF)
    solver.model.train()
    set_scales(solver, *before)
    weights = [parameter.clone() for parameter in solver.model.parameters()]
    metrics = solver.run_step(batch(0))
    assert metrics['skipped']
    assert metrics['overflow']
    assert metrics['g_loss'].isfinite()
    assert (metrics['loss_scale'], metrics['d_loss_scale']) == before
    assert scales(solver) == after
    assert all(map(torch.equal, weights, solver.model.parameters()))


def test_the_search_for_a_scale_does_not_end_the_run(make_solver):
    """More updates in a row overflow than may be skipped for another reason."""
    solver = make_solver(*HALF, 'optim.max_skipped=1', 'optim.updates_per_epoch=8')
    set_scales(solver, 2.0**20, 2.0**10)
    solver.model.train()
    for seed in range(3):
        metrics = solver.run_step(batch(seed))
        assert metrics['overflow']
        solver.end_update(metrics, metrics.pop('skipped'), batch(seed), [])
    assert not list(solver.folder.glob('nonfinite/*'))
    assert solver.guard.in_row == 0
    assert solver.means.read()['skipped'] == 1


def test_audio_that_is_not_finite_is_not_blamed_on_the_scale(make_solver):
    solver = make_solver(*HALF)
    solver.model.train()
    wav = batch(0)
    wav[0, 0, 0] = torch.nan
    metrics = solver.run_step(wav)
    assert metrics['skipped']
    assert not metrics['overflow']
    assert scales(solver) == (2**16, 2**16)


def test_the_warm_up_of_discriminators_adapts_their_scale(make_solver):
    solver = make_solver(*HALF, 'adversarial.warmup=5')
    solver.adversaries.start_warmup()
    set_scales(solver, 8, 2.0**60)
    metrics = solver.run_step(batch(0))
    assert metrics['skipped']
    assert metrics['overflow']
    assert scales(solver) == (8, 2**59)


def test_the_scales_are_part_of_the_state(make_solver):
    solver = make_solver(*HALF)
    set_scales(solver, 64, 128)
    solver.loss_scales.model.good.fill_(7)
    solver.save_checkpoint()
    expected = {'model': {'scale': 64, 'good': 7}, 'adversaries': {'scale': 128, 'good': 0}}
    assert checkpoint.load_checkpoint(solver.checkpoint_path)['state']['loss_scales'] == expected
    other = make_solver(*HALF)
    assert other.restore()
    assert other.loss_scales.state_dict() == expected
    assert 'loss_scales' not in make_solver().state_dict()


def test_losses_fall_as_in_float32(make_solver):
    curves = []
    for precision in ('float16', 'null'):
        solver = make_solver('adversarial=none', f'precision.autocast={precision}', base=BASE)
        solver.model.train()
        if precision == 'float16':
            set_scales(solver, 64, 64)
        history = [solver.run_step(batch(seed % 2)) for seed in range(12)]
        curves.append(torch.stack([metrics['msspec'].detach() for metrics in history]))
    assert curves[1][-4:].mean() < 0.95 * curves[1][:4].mean(), 'little was learned'
    torch.testing.assert_close(*curves, rtol=0.1, atol=1e-3)


def test_a_resumed_run_continues_exactly(make_solver, assert_equal):
    solver, other = make_solver(*HALF), make_solver(*HALF)
    solver.model.train()
    for seed in range(2):  # overflows, which halve the scale
        solver.run_step(batch(seed))
    solver.save_checkpoint()
    assert other.restore()
    other.model.train()
    for seed in (2, 3):
        metrics = [each.run_step(batch(seed)) for each in (solver, other)]
        assert metrics[0]['loss_scale'] == metrics[1]['loss_scale'] < 2**16
    assert_equal(solver.state_dict(), other.state_dict())
