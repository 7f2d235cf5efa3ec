import pytest
import torch

from audiocodec.losses import WeightedSum


def make():
    wav = torch.randn(2, 1, 8)
    weight = torch.tensor(0.5, requires_grad=True)
    return wav, weight, wav * weight


def test_gradient_is_that_of_the_weighted_sum():
    _, weight, wav_hat = make()
    losses = {'l1': wav_hat.abs().mean(), 'l2': wav_hat.square().mean()}
    total = 2 * losses['l1'] + 3 * 0.5 * losses['l2']
    extra = weight.square()
    expected = torch.autograd.grad(total + extra, weight, retain_graph=True)[0]
    balancer = WeightedSum({'l1': 2.0, 'l2': 3.0, 'unused': 1.0}, monitor=True)
    found = balancer.backward(losses, wav_hat, extra, weight_factors={'l2': 0.5})
    torch.testing.assert_close(weight.grad, expected)
    torch.testing.assert_close(found, total.detach())
    assert not found.requires_grad
    assert not any(loss.requires_grad for loss in losses.values())
    assert balancer.metrics.keys() == {'ratio_l1', 'ratio_l2'}
    torch.testing.assert_close(sum(balancer.metrics.values()), torch.tensor(1.0))
    torch.testing.assert_close(balancer.metrics['ratio_l1'], 2 * losses['l1'] / found)
    assert not balancer.state_dict()


def test_wrong_losses_and_weights_are_refused():
    _, _, wav_hat = make()
    balancer = WeightedSum({'l1': 1.0})
    for losses, message in (
        ({'l2': wav_hat.mean()}, "no weight for the loss 'l2'"),
        ({'l1': wav_hat.abs()}, 'must be a scalar'),
        ({'l1': torch.ones(())}, 'does not depend on the output'),
        ({}, 'no losses'),
    ):
        with pytest.raises(ValueError, match=message):
            balancer.backward(losses, wav_hat)
    with pytest.raises(ValueError, match='does not require grad'):
        balancer.backward({'l1': wav_hat.mean()}, wav_hat.detach())
    with pytest.raises(ValueError, match='finite and not negative, got -1'):
        WeightedSum({'l1': -1.0})
    with pytest.raises(ValueError, match='at least one loss'):
        WeightedSum({'l1': 0.0})
