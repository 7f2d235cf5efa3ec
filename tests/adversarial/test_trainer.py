import copy
import functools
import math
import pickle
import socket
from types import SimpleNamespace

import pytest
import torch
from forked import Forked
from torch import nn

from audiocodec.adversarial import (
    AdversarialTrainer,
    FeatureMatchingLoss,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
    get_criterion,
)
from audiocodec.optim import CosineSchedule
from audiocodec.solvers.precision import compile_parts

ADAM = functools.partial(torch.optim.Adam, lr=3e-3, betas=(0.5, 0.9))


def make_discriminators(seed=0):
    torch.manual_seed(seed)
    return {
        'stft': MultiScaleSTFTDiscriminator(
            filters=4, n_ffts=[128, 64], hop_lengths=[32, 16], win_lengths=[128, 64]
        ),
        'period': MultiPeriodDiscriminator(filters=2, max_filters=8, periods=[2, 3]),
    }


def make_trainer(**kwargs):
    return AdversarialTrainer(make_discriminators(), **{'optimizer': ADAM, **kwargs})


def share_that_depends_on_the_audio(trainer, wavs):
    """Return the smallest fraction of the power of logits that varies over a batch."""
    fractions = []
    for discriminator in trainer.discriminators.values():
        with torch.no_grad():
            for logits in discriminator(wavs)[0]:
                varying = (logits - logits.mean(0)).square().mean()
                fractions.append((varying / logits.square().mean()).item())
    return min(fractions)


@pytest.mark.parametrize('kind', ['stft', 'period', 'scale'])
def test_initialized_discriminators_see_quiet_audio(kind):
    """With PyTorch's initialization, their logits are biases, whatever they hear."""

    def make(init):
        torch.manual_seed(0)
        discriminators = {
            **make_discriminators(),
            'scale': MultiScaleDiscriminator(filters=4, max_filters=8),
        }
        return AdversarialTrainer({kind: discriminators[kind]}, optimizer=ADAM, init=init)

    wavs = 0.05 * torch.randn(8, 1, 600, generator=torch.Generator().manual_seed(1))
    default, normal = (
        share_that_depends_on_the_audio(make(init), wavs) for init in ('default', 'lecun_normal')
    )
    assert default < 1e-4
    assert normal > 0.1


def test_an_unknown_initialization_is_refused():
    with pytest.raises(ValueError, match=r"init='xavier' is unknown: choose one of .*lecun_normal"):
        make_trainer(init='xavier')


def batch(index=0, size=2, length=600):
    generator = torch.Generator().manual_seed(index)
    noise = 0.3 * torch.randn(size, 1, length, generator=generator)
    time = torch.arange(length) / length
    return noise, 0.3 * torch.sin(
        2 * torch.pi * (20 + 5 * torch.rand(size, 1, 1, generator=generator)) * time
    )


def parameters(trainer):
    return [parameter.detach().clone() for parameter in trainer.parameters()]


class ForeignDiscriminator(nn.Module):
    """Discriminator parametrized directly with PyTorch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 2, 5))

    def forward(self, wav):
        hidden = self.conv(wav).relu()
        return [hidden.mean(1)], [[hidden]]


@pytest.mark.slow
@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))]
)
@pytest.mark.parametrize('compiled', [False, True])
def test_copies_train_identically_and_independently(copied, compiled, assert_equal):
    torch.manual_seed(0)
    discriminators = {
        **make_discriminators(),
        'scale': MultiScaleDiscriminator(
            scale_norms=['spectral_norm', 'weight_norm'], filters=2, max_filters=8
        ),
        'foreign': ForeignDiscriminator(),
    }
    trainer = AdversarialTrainer(discriminators, optimizer=ADAM)
    if compiled:
        compile_parts(SimpleNamespace(compiled_parts=()), trainer)
    with torch.compiler.set_stance('force_eager'):
        trainer.train_step(*batch(0))
        state = copy.deepcopy(trainer.state_dict())
        other = copied(trainer)
        assert_equal(dict(other.state_dict()), dict(state))
        assert_equal(other.train_step(*batch(1)), copied(trainer).train_step(*batch(1)))
        assert_equal(dict(trainer.state_dict()), dict(state))
        trainer.train_step(*batch(1))
        assert_equal(dict(other.state_dict()), dict(trainer.state_dict()))
        assert_equal(other.generator_losses(*batch(2)), trainer.generator_losses(*batch(2)))


@pytest.mark.slow
@pytest.mark.parametrize('criterion', ['hinge', 'mse'])
def test_discriminators_learn_to_separate(criterion):
    trainer = make_trainer(criterion=criterion, optimizer=functools.partial(ADAM, lr=1e-2))
    history = [trainer.train_step(*batch(index, length=400)) for index in range(60)]

    def late(key):
        return sum(metrics[key].item() for metrics in history[-10:]) / 10

    for name in ('stft', 'period'):
        assert late(f'd_{name}') < 0.3 * history[0][f'd_{name}']
        assert late(f'd_{name}_real_acc') > 0.9
        assert late(f'd_{name}_fake_acc') > 0.9
    assert set(history[0]) == {
        'd_stft',
        'd_stft_real_acc',
        'd_stft_fake_acc',
        'd_period',
        'd_period_real_acc',
        'd_period_fake_acc',
        'd_grad_norm',
    }
    assert all(value.dim() == 0 and not value.requires_grad for value in history[0].values())


@pytest.mark.parametrize('normalize', [True, False])
def test_train_step_equals_a_plain_update(normalize):
    # Not Adam, which would amplify the rounding errors of gradients that cancel to 0.
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    trainer = make_trainer(normalize=normalize, optimizer=sgd)
    plain = nn.ModuleDict(make_discriminators())
    optimizer = sgd(plain.parameters())
    criterion = get_criterion('hinge')
    for index in range(3):
        fake, real = batch(index)
        metrics = trainer.train_step(fake, real)
        optimizer.zero_grad()
        for name, discriminator in plain.items():
            loss = 0.0
            for fake_logit, real_logit in zip(discriminator(fake)[0], discriminator(real)[0]):
                loss = loss + (criterion.fake(fake_logit) + criterion.real(real_logit)) / (
                    2 if normalize else 1
                )
            loss.backward()
            torch.testing.assert_close(metrics[f'd_{name}'], loss.detach())
        norm = torch.stack([parameter.grad.norm() for parameter in plain.parameters()]).norm()
        torch.testing.assert_close(metrics['d_grad_norm'], norm, rtol=1e-5, atol=0)
        optimizer.step()
    for ours, theirs in zip(trainer.parameters(), plain.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_generator_losses_equal_plain_ones_with_a_gradient_for_fake_only():
    trainer = make_trainer()
    fake, real = batch()
    fake.requires_grad_()
    real.requires_grad_()
    losses = trainer.generator_losses(fake, real)
    assert list(losses) == ['adv_stft', 'feat_stft', 'adv_period', 'feat_period']
    gradients = {
        name: torch.autograd.grad(loss, fake, retain_graph=True)[0] for name, loss in losses.items()
    }

    criterion, matching = get_criterion('hinge'), FeatureMatchingLoss()
    for name, discriminator in trainer.discriminators.items():
        logits, fakes = discriminator(fake)
        _, reals = discriminator(real)
        plain = {
            f'adv_{name}': sum(criterion.generator(logit) for logit in logits) / 2,
            f'feat_{name}': sum(map(matching, fakes, reals)) / 2,
        }
        for key, loss in plain.items():
            torch.testing.assert_close(losses[key], loss)
            torch.testing.assert_close(
                gradients[key], torch.autograd.grad(loss, fake, retain_graph=True)[0]
            )
            assert gradients[key].norm() > 0

    sum(losses.values()).backward()
    assert fake.grad is not None
    assert real.grad is None
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in trainer.parameters()
    )


def test_generator_losses_change_neither_gradients_nor_frozen_parameters():
    trainer = make_trainer()
    trainer.train_step(*batch())
    frozen = trainer.discriminators['stft'].discriminators[0].convs[0].conv.bias
    frozen.requires_grad_(False)
    before = [parameter.grad.clone() for parameter in trainer.parameters()]
    fake, real = batch(1)
    sum(trainer.generator_losses(fake.requires_grad_(), real).values()).backward()
    assert all(map(torch.equal, before, [parameter.grad for parameter in trainer.parameters()]))
    assert [parameter.requires_grad for parameter in trainer.parameters()].count(False) == 1
    assert not frozen.requires_grad


def test_train_step_gives_the_generator_no_gradient():
    fake, real = batch()
    make_trainer().train_step(fake.requires_grad_(), real)
    assert fake.grad is None


def test_without_feature_loss():
    trainer = make_trainer(feature_loss=None)
    assert list(trainer.generator_losses(*batch())) == ['adv_stft', 'adv_period']


def test_without_discriminators():
    trainer = AdversarialTrainer({})
    assert trainer.train_step(*batch()) == {}
    assert trainer.generator_losses(*batch()) == {}
    other = AdversarialTrainer({})
    other.load_state_dict(trainer.state_dict())
    assert other.updates == 1


def test_integer_every_is_a_period():
    trainer = make_trainer(every=3)
    trained = [bool(trainer.train_step(*batch(index))) for index in range(7)]
    assert trained == [True, False, False, True, False, False, True]


def test_a_skipped_update_changes_nothing_but_the_count():
    trainer = make_trainer(every=2)
    trainer.train_step(*batch())
    before = parameters(trainer)
    assert trainer.train_step(*batch(1)) == {}
    assert all(map(torch.equal, before, parameters(trainer)))
    assert trainer.updates == 2


def test_fractional_every_draws_updates_from_seed_and_count():
    def draws(seed):
        trainer = make_trainer(every=2.5, seed=seed)
        trained = []
        for _ in range(400):
            trained.append(trainer._is_due())
            trainer.updates += 1
        return trained

    first = draws(seed=1)
    assert first == draws(seed=1)
    assert first != draws(seed=2)
    assert abs(sum(first) / 400 - 0.4) < 0.08


def test_start_delays_training_and_warmup_delays_the_generator():
    trainer = make_trainer(start=2, warmup=1, every=2)
    trained, has_losses = [], []
    for index in range(5):
        trained.append(bool(trainer.train_step(*batch(index))))
        has_losses.append(bool(trainer.generator_losses(*batch(index))))
    assert trained == [False, False, True, False, True]
    assert has_losses == [False, False, False, True, True]


@pytest.mark.parametrize('pretrained', [False, True])
def test_warmup_trains_new_discriminators_first_and_then_increases_their_weight(pretrained):
    trainer = make_trainer(start=0 if pretrained else 2, warmup=2)
    if pretrained:
        trainer.train_step(*batch())
        trainer.start_warmup()
        assert trainer.updates == 0
    in_warmup, has_losses, weights = [], [], []
    for index in range(6 if pretrained else 8):
        in_warmup.append(trainer.in_warmup)
        trainer.train_step(*batch(index, length=200))
        has_losses.append(bool(trainer.generator_losses(*batch(index, length=200))))
        weights.append(trainer.warmup_weight)
        resumed = make_trainer(start=trainer.start, warmup=2)
        resumed.load_state_dict(trainer.state_dict())
        assert resumed.in_warmup == trainer.in_warmup
        assert resumed.warmup_weight == trainer.warmup_weight
    before = [] if pretrained else [False] * 2
    assert in_warmup == [*before, True, True, False, False, False, False]
    assert has_losses == [*before, False, False, True, True, True, True]
    assert weights[len(before) :] == [0, 0, 0.5, 1, 1, 1]


def test_checkpoints_store_the_warmup_under_its_first_name():
    trainer = make_trainer()
    trainer.start_warmup()
    state = trainer.state_dict()['_extra_state']
    assert state['is_late'] is True
    assert 'generator_pretrained' not in state


def test_there_is_no_warmup_from_scratch_or_without_discriminators():
    trainer = make_trainer()
    assert not trainer.in_warmup
    assert trainer.warmup_weight == 1
    assert trainer.generator_losses(*batch())
    assert not AdversarialTrainer({}, start=3).in_warmup


def test_clipping_bounds_the_gradient_and_reports_the_norm_before():
    free, clipped = make_trainer(), make_trainer(max_norm=1e-3)
    norms = [trainer.train_step(*batch())['d_grad_norm'] for trainer in (free, clipped)]
    assert norms[0] == norms[1] > 1e-2
    for trainer, expected in ((free, norms[0].item()), (clipped, 1e-3)):
        norm = torch.stack([parameter.grad.norm() for parameter in trainer.parameters()]).norm()
        assert norm.item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize('every', [2, 1.7])
def test_resume_is_bitwise_exact(tmp_path, every):
    def make():
        torch.manual_seed(0)
        discriminators = {
            **make_discriminators(),
            'scale': MultiScaleDiscriminator(
                filters=4, max_filters=8, scale_norms=['spectral_norm']
            ),
        }
        return AdversarialTrainer(
            discriminators, ADAM, every=every, max_norm=1.0, start=1, warmup=0, seed=4
        )

    def train(trainer, updates):
        history = []
        for index in updates:
            metrics = trainer.train_step(*batch(index))
            losses = trainer.generator_losses(*batch(index))
            history.append({**metrics, **{key: value.detach() for key, value in losses.items()}})
        return history

    whole = make()
    train(whole, range(4))
    torch.save(whole.state_dict(), tmp_path / 'state.th')
    expected = train(whole, range(4, 10))
    resumed = make()
    train(resumed, range(2))  # must not affect the result
    resumed.load_state_dict(torch.load(tmp_path / 'state.th', weights_only=True))
    history = train(resumed, range(4, 10))
    assert history == expected
    assert 1 < sum('d_stft' in metrics for metrics in history) < 6
    assert all(map(torch.equal, parameters(whole), parameters(resumed)))
    for ours, theirs in zip(
        whole.state_dict()['_extra_state']['optimizer']['state'].values(),
        resumed.state_dict()['_extra_state']['optimizer']['state'].values(),
    ):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_loaded_state_is_a_copy():
    source, target = make_trainer(), make_trainer()
    source.train_step(*batch())
    target.load_state_dict(source.state_dict())
    before = source.optimizer.state_dict()['state'][0]['exp_avg'].clone()
    target.train_step(*batch(1))
    assert torch.equal(source.optimizer.state_dict()['state'][0]['exp_avg'], before)


def test_optimizer_state_does_not_depend_on_the_order_of_the_discriminators():
    discriminators = make_discriminators()
    forward = make_trainer()
    backward = AdversarialTrainer(dict(reversed(make_discriminators().items())), ADAM)
    assert list(backward.discriminators) != list(discriminators)
    forward.train_step(*batch())
    backward.load_state_dict(forward.state_dict())
    for trainer in (forward, backward):
        trainer.train_step(*batch(1))
    for name in discriminators:
        for ours, theirs in zip(
            forward.discriminators[name].parameters(), backward.discriminators[name].parameters()
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_batch_norms_get_fake_and_real_audio_in_separate_batches():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, wav):
            return [self.norm(wav)], [[wav]]

    fake, real = torch.full((2, 1, 8), -1.0), torch.full((2, 1, 8), 1.0)
    metrics = AdversarialTrainer({'plain': Plain()}).train_step(fake, real)
    # Both are normalized to 0. In one batch, they would be separated perfectly.
    assert metrics['d_plain'] == 2.0


def test_training_under_autocast_keeps_float32_state():
    trainer = make_trainer()
    for index in range(3):
        fake, real = batch(index)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            metrics = trainer.train_step(fake, real)
            losses = trainer.generator_losses(fake.requires_grad_(), real)
    assert all(value.dtype == torch.float32 for value in (*metrics.values(), *losses.values()))
    assert all(parameter.grad.dtype == torch.float32 for parameter in trainer.parameters())
    plain = make_trainer()
    for index in range(3):
        expected = plain.train_step(*batch(index))
    for name in ('d_stft', 'd_period', 'd_grad_norm'):
        torch.testing.assert_close(metrics[name], expected[name], rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'criterion': 'wgan'}, "'wgan' is unknown: choose one of hinge, hinge2, mse"),
        ({'every': 0}, 'every=0'),
        ({'every': 0.5}, 'every=0.5'),
        ({'start': -1}, 'start=-1'),
        ({'warmup': -1}, 'warmup=-1'),
        ({'max_norm': 0.0}, 'max_norm=0.0'),
        ({'lr_ratio': 0}, "lr_ratio=0: expected a number > 0, the ratio to the generator's rate"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


def test_unequal_shapes_are_refused():
    trainer = make_trainer()
    for function in (trainer.train_step, trainer.generator_losses):
        with pytest.raises(ValueError, match=r'\[2, 1, 601\] and real audio \[2, 1, 600\]'):
            function(torch.zeros(2, 1, 601), torch.zeros(2, 1, 600))
    assert trainer.updates == 0


WORKER = """
import functools, sys
import torch
from torch import distributed
torch.set_num_threads(1)
from audiocodec.adversarial import AdversarialTrainer, MultiPeriodDiscriminator
from audiocodec.utils import distrib
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
torch.manual_seed(rank)
discriminator = MultiPeriodDiscriminator(filters=2, max_filters=8, periods=[2, 3])
optimizer = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
trainer = AdversarialTrainer({'mpd': discriminator}, optimizer, every=1.5, max_norm=0.5)
distrib.broadcast_([*trainer.parameters(), *trainer.buffers()])
if rank == 0:
    torch.save(trainer.state_dict(), f'{folder}/start.th')
wavs = torch.load(f'{folder}/wavs.th')
norms = []
for fake, real in wavs:
    metrics = trainer.train_step(fake[rank::2], real[rank::2])
    norms.append(metrics.get('d_grad_norm', torch.zeros(())))
torch.save({'state': trainer.state_dict(), 'norms': torch.stack(norms)}, f'{folder}/end{rank}.th')
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_workers_equal_one_with_the_whole_batch(tmp_path):
    wavs = [batch(index, size=4) for index in range(8)]
    torch.save(wavs, tmp_path / 'wavs.th')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    workers = [Forked(['-c', WORKER, str(rank), str(port), str(tmp_path)]) for rank in range(2)]
    try:
        assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    single = AdversarialTrainer(
        {'mpd': MultiPeriodDiscriminator(filters=2, max_filters=8, periods=[2, 3])},
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        every=1.5,
        max_norm=0.5,
    )
    single.load_state_dict(torch.load(tmp_path / 'start.th', weights_only=True))
    norms = torch.stack(
        [single.train_step(*pair).get('d_grad_norm', torch.zeros(())) for pair in wavs]
    )
    assert 0 < (norms == 0).sum() < 8
    ends = [torch.load(tmp_path / f'end{rank}.th', weights_only=True) for rank in range(2)]
    for end in ends:
        torch.testing.assert_close(end['norms'], norms, rtol=1e-3, atol=1e-6)
    for name, value in single.discriminators.state_dict().items():
        first, second = (end['state'][f'discriminators.{name}'] for end in ends)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, value, rtol=1e-3, atol=1e-5)


def test_schedule_counts_calls_and_resumes(assert_equal):
    """Half a cosine over 8 calls, of which every second one trains."""
    schedule = functools.partial(CosineSchedule, total_steps=8, warmup_steps=0)

    def make():
        return make_trainer(schedule=schedule, every=2, lr_ratio=0.5)

    def rate(trainer):
        return trainer.optimizer.param_groups[0]['lr']

    trainer = make()
    rates = []
    for index in range(8):
        if index == 3:
            state = copy.deepcopy(trainer.state_dict())
        rates.append(rate(trainer))
        trainer.train_step(*batch(index))
    assert rates == pytest.approx(
        [0.5 * 3e-3 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    )
    assert rate(trainer) == pytest.approx(0.0, abs=1e-9)
    resumed = make()
    resumed.load_state_dict(state)
    assert rate(resumed) == rates[3]
    for index in range(3, 8):
        resumed.train_step(*batch(index))
    assert_equal(resumed.state_dict(), trainer.state_dict())
