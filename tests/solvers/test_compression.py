"""The compression solver: its update, its losses as metrics, learning rates, validation."""

import pytest
import soundfile
import torch

from audiocodec.losses import SISNR


@pytest.fixture
def solver(make_solver):
    solver = make_solver('losses.l1.weight=0', 'losses.sisnr.weight=1')
    solver.model.train()
    return solver


def batch(seed=0):
    return 0.1 * torch.randn(4, 1, 4000, generator=torch.Generator().manual_seed(seed))


def test_an_update_changes_every_part_and_returns_scalars_on_the_device(solver):
    model = [parameter.clone() for parameter in solver.model.parameters()]
    discriminators = [p.clone() for p in solver.adversaries.discriminators.parameters()]
    metrics = solver.run_step(batch())
    for before, after in zip(model, solver.model.parameters()):
        assert not torch.equal(before, after)
    for before, after in zip(discriminators, solver.adversaries.discriminators.parameters()):
        assert not torch.equal(before, after)
    assert solver.updates == solver.adversaries.updates == solver.ema.count == 1
    assert not metrics['skipped']
    assert {'g_loss', 'grad_norm', 'd_grad_norm', 'l1', 'sisnr', 'msspec', 'mel'} <= metrics.keys()
    assert {'adv_msstftd', 'feat_msstftd', 'd_msstftd', 'commitment', 'bandwidth'} <= metrics.keys()
    per_level = {name for name, value in metrics.items() if value.dim() == 1}
    assert per_level == {'usage', 'perplexity', 'dead', 'revived'}
    assert {value.dim() for name, value in metrics.items() if name not in per_level} == {0}
    assert all(parameter.grad is None for parameter in solver.model.parameters())


def test_losses_of_weight_zero_are_computed_and_do_not_train(solver):
    assert 'l1' not in solver.trained
    assert 'l1' not in solver.balancer.weights
    wav = batch(0)
    out = solver.model(batch(1))
    losses = solver.reconstruction_losses(out, wav)
    assert losses.keys() == set(solver.trained)
    assert solver.untrained_losses(out, wav)['l1'] == (out.wav - wav).abs().mean()


def test_a_loss_is_logged_as_it_declares(solver):
    wav, wav_hat = batch(0), batch(0) + 0.01 * batch(1)
    loss = SISNR(16000)(wav_hat, wav)
    found = solver.as_metrics({'sisnr': loss, 'adv_msstftd': torch.tensor(2.0)})
    assert found['sisnr'] == -loss
    assert found['sisnr'] > 20  # dB: the noise has a hundredth of the amplitude
    assert found['adv_msstftd'] == 2


def test_an_update_with_a_gradient_that_is_not_finite_changes_no_weight(solver):
    solver.run_step(batch())
    before = [parameter.clone() for parameter in solver.model.parameters()]
    wav = batch(1)
    wav[0, 0, 0] = torch.nan
    assert solver.run_step(wav)['skipped']
    assert solver.updates == 2
    for value, parameter in zip(before, solver.model.parameters()):
        assert torch.equal(value, parameter)


def test_the_model_skips_a_step_that_its_discriminators_skipped(solver):
    for parameter in solver.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.clone() for parameter in solver.model.parameters()]
    update = solver.update_model(torch.tensor(1.0), d_grad_norm=torch.tensor(torch.inf))
    assert update['skipped']
    assert all(map(torch.equal, before, solver.model.parameters()))


def test_the_gradient_is_clipped_to_the_maximum_norm(make_solver):
    solver = make_solver('optim.max_norm=0.5', 'optim.optimizer={_target_: torch.optim.SGD, lr: 1}')
    parameters = list(solver.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before = torch.cat([parameter.detach().flatten() for parameter in parameters])
    norm = solver.update_model(torch.tensor(1.0), None)['grad_norm']
    after = torch.cat([parameter.detach().flatten() for parameter in parameters])
    assert norm == pytest.approx(len(before) ** 0.5)
    assert (after - before).norm() == pytest.approx(0.5, rel=1e-3)


def test_learning_rates(make_solver):
    assert make_solver('optim.lr=0.25').learning_rates() == {'lr': 0.25, 'd_lr': 0.25}
    assert make_solver('optim.lr=0.5', 'adversarial.lr_ratio=0.5').learning_rates() == {
        'lr': 0.5,
        'd_lr': 0.25,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('stage', 'metric', 'expected'),
    [
        ('valid', 'sisnr', True),
        ('valid', 'mel', False),
        ('train', 'codebook_usage', True),
        ('train', 'd_msstftd_fake_acc', True),
        ('train', 'grad_norm', False),
        ('evaluate', 'sisnr', True),
    ],
)
def test_which_metrics_are_better_when_higher(solver, stage, metric, expected):
    assert solver.higher_is_better(stage, metric) is expected


def test_validation_uses_the_averaged_weights_and_changes_nothing(solver):
    for seed in range(3):
        solver.run_step(batch(seed))
    with solver.averaged_model():
        averaged = solver.valid_step(batch())
        assert not solver.model.training
    assert solver.model.training
    solver.model.eval()
    latest = solver.valid_step(batch())
    assert averaged['msspec'] != latest['msspec']
    assert averaged.keys() == latest.keys()
    assert 'skipped' not in averaged


def test_samples_are_written_in_pairs_without_padding(make_solver):
    solver = make_solver('generate.every=1', 'dataset.generate.num_samples=2')
    assert solver.generate() == {}
    files = sorted((solver.folder / 'samples' / 'epoch_1').iterdir())
    kinds = [path.name.split('.')[-2] for path in files]
    assert kinds == ['reconstruction', 'reference'] * 2
    lengths = [soundfile.info(path).frames for path in files]
    assert lengths[0] == lengths[1]
    assert lengths[2] == lengths[3]
