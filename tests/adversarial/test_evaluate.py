import functools
import weakref

import pytest
import torch
from torch import nn

from audiocodec.adversarial import (
    AdversarialTrainer,
    FeatureMatchingLoss,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from audiocodec.adversarial.discriminators import MultiDiscriminator
from audiocodec.adversarial.evaluate import (
    logits_of_pair,
    reference_features,
    with_precomputed_gradients,
)

SGD = functools.partial(torch.optim.SGD, lr=0.0)


class SharedTrunk(nn.Module):
    """Discriminator with two outputs of shared layers; not a `MultiDiscriminator`."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv1d(1, 3, 5)
        self.heads = nn.ModuleList(nn.Conv1d(3, 1, 3) for _ in range(2))

    def forward(self, wav):
        x = self.trunk(wav).tanh()
        return [head(x) for head in self.heads], [[x]] * 2


def make(kind):
    torch.manual_seed(0)
    return {
        'stft': lambda: MultiScaleSTFTDiscriminator(
            filters=4, n_ffts=[128, 64], hop_lengths=[32, 16], win_lengths=[128, 64]
        ),
        'period': lambda: MultiPeriodDiscriminator(filters=2, max_filters=8, periods=[2, 3]),
        'scale': lambda: MultiScaleDiscriminator(
            filters=4, max_filters=8, downsample_scales=[2], downsample=True
        ),
        'shared': SharedTrunk,
    }[kind]()


def batch():
    torch.manual_seed(1)
    return 0.3 * torch.randn(2, 1, 600), 0.3 * torch.randn(2, 1, 600)


@pytest.mark.parametrize('kind', ['stft', 'period', 'scale', 'shared'])
@pytest.mark.parametrize('normalize', [True, False])
def test_gradients_of_the_generator_equal_those_of_one_graph(kind, normalize):
    trainer = AdversarialTrainer({'d': make(kind)}, optimizer=SGD, normalize=normalize)
    fake, real = batch()
    fake.requires_grad_()
    losses = trainer.generator_losses(fake, real)
    logits, features = trainer.discriminators['d'](fake)
    _, references = trainer.discriminators['d'](real)
    number = len(logits) if normalize else 1
    expected = {
        'adv_d': -sum(logit.mean() for logit in logits) / number,
        'feat_d': sum(map(FeatureMatchingLoss(nn.L1Loss()), features, references)) / number,
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
        (actual,) = torch.autograd.grad(3 * loss, fake, retain_graph=True)
        (plain,) = torch.autograd.grad(3 * expected[name], fake, retain_graph=True)
        torch.testing.assert_close(actual, plain, rtol=1e-4, atol=1e-6 * plain.abs().max().item())
    assert all(parameter.grad is None for parameter in trainer.parameters())


@pytest.mark.parametrize('kind', ['stft', 'period', 'scale', 'shared'])
@pytest.mark.parametrize('normalize', [True, False])
def test_gradients_of_discriminators_equal_those_of_one_graph(kind, normalize):
    discriminator = make(kind)
    fake, real = batch()
    fake_logits = discriminator(fake)[0]
    real_logits = discriminator(real)[0]
    loss = sum(
        (1 + fakes).relu().mean() + (1 - reals).relu().mean()
        for fakes, reals in zip(fake_logits, real_logits)
    )
    loss = loss / len(fake_logits) if normalize else loss
    expected = torch.autograd.grad(loss, list(discriminator.parameters()))
    trainer = AdversarialTrainer({'d': discriminator}, optimizer=SGD, normalize=normalize)
    metrics = trainer.train_step(fake, real)
    torch.testing.assert_close(metrics['d_d'], loss.detach())
    for parameter, gradient in zip(discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('step', ['train_step', 'generator_losses'])
def test_maps_of_one_sub_discriminator_are_in_memory_at_a_time(step):
    references, alive = [], []

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 3)

        def forward(self, wav):
            if wav.requires_grad or torch.is_grad_enabled():
                alive.append(sum(reference() is not None for reference in references))
            x = self.conv(wav)
            references.append(weakref.ref(x))
            return x.mean(1), [x]

    trainer = AdversarialTrainer(
        {'d': MultiDiscriminator([Part() for _ in range(4)], 1)}, optimizer=SGD
    )
    fake, real = batch()
    getattr(trainer, step)(fake.requires_grad_(step == 'generator_losses'), real)
    assert alive == [0, 0, 0, 0]


@pytest.mark.parametrize('kind', ['period', 'shared'])
@pytest.mark.parametrize(
    'weights', [{'adv_d': 0.5, 'feat_d': 2.0}, {'feat_d': 2.0}, {'adv_d': 0.0, 'feat_d': 2.0}]
)
def test_one_backward_pass_has_the_gradient_of_the_weighted_sum(kind, weights, monkeypatch):
    trainer = AdversarialTrainer({'d': make(kind)}, optimizer=SGD)
    fake, real = batch()
    fake.requires_grad_()
    passes = []
    grad = torch.autograd.grad

    def counted(*args, **kwargs):
        passes.append(args)
        return grad(*args, **kwargs)

    found = []
    for given, number in ((None, 4), (weights, 2)):
        passes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, 'grad', counted)
            losses = trainer.generator_losses(fake, real, given)
        assert len(passes) == number
        total = sum(weight * losses[name] for name, weight in weights.items())
        found.append((losses, *grad(3 * total, fake)))
    (each, expected), (joint, actual) = found
    assert joint == each
    scale = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6 * scale)


def test_precomputed_gradient_frees_the_graph():
    source = torch.randn(3, requires_grad=True)
    leaf = source.detach().requires_grad_()
    inner = (2 * leaf).exp()
    reference = weakref.ref(inner)
    losses = with_precomputed_gradients({'d': inner.sum()}, leaf, source * 1)
    del inner
    assert reference() is None
    losses['d'].backward()
    torch.testing.assert_close(source.grad, 2 * (2 * source.detach()).exp())


@pytest.mark.parametrize('kind', ['period', 'shared'])
def test_logits_of_a_pair_equal_those_of_each(kind):
    discriminator = make(kind)
    fake, real = batch()
    number, pairs = logits_of_pair(discriminator, fake, real)
    pairs = list(pairs)
    assert number == len(pairs) == 2
    for (fake_logits, real_logits), fakes, reals in zip(
        pairs, discriminator(fake)[0], discriminator(real)[0], strict=True
    ):
        torch.testing.assert_close(fake_logits, fakes, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(real_logits, reals, rtol=1e-4, atol=1e-6)


def test_reference_features_have_no_graph_and_do_not_disable_gradients():
    discriminator = make('period')
    _, real = batch()
    for maps, expected in zip(
        reference_features(discriminator, real), discriminator(real)[1], strict=True
    ):
        assert torch.is_grad_enabled()
        for ours, theirs in zip(maps, expected, strict=True):
            assert not ours.requires_grad
            torch.testing.assert_close(ours, theirs.detach())
