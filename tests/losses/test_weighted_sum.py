"""The weighted sum of losses has the gradient of one backward pass through their sum."""

import pytest
import torch

from audiocodec.losses import Balancer, WeightedSum


def setup():
    torch.manual_seed(0)
    weight = torch.randn(3, requires_grad=True)
    wav_hat = torch.randn(2, 1, 5) * weight.sum()
    return weight, wav_hat


def losses_of(wav_hat):
    return {'l1': wav_hat.abs().mean(), 'l2': wav_hat.square().mean()}


def test_the_gradient_is_that_of_the_sum_and_the_extra_loss_joins():
    weight, wav_hat = setup()
    combiner = WeightedSum({'l1': 2.0, 'l2': 0.5, 'off': 1.0})
    total = combiner.backward(
        losses_of(wav_hat), wav_hat, extra_loss=3 * weight.square().sum(), weight_factors={'l2': 2}
    )
    other, wav_hat = setup()
    losses = losses_of(wav_hat)
    expected = 2 * losses['l1'] + losses['l2']
    (expected + 3 * other.square().sum()).backward()
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(weight.grad, other.grad)
    assert not total.requires_grad
    assert combiner.state_dict() == {}


def test_it_equals_a_balancer_that_does_not_balance():
    gradients = []
    for combiner in (
        WeightedSum({'l1': 2.0, 'l2': 0.5}),
        Balancer({'l1': 2.0, 'l2': 0.5}, balance_grads=False),
    ):
        weight, wav_hat = setup()
        combiner.backward(losses_of(wav_hat), wav_hat)
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)


def test_graphs_of_the_losses_are_freed():
    _, wav_hat = setup()
    losses = losses_of(wav_hat)
    WeightedSum({'l1': 1.0, 'l2': 1.0}).backward(losses, wav_hat)
    assert all(loss.grad_fn is None for loss in losses.values())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda losses: {'l3': losses['l1']}, "no weight for the loss 'l3'"),
        (lambda losses: {'l1': losses['l1'].expand(2)}, 'must be a scalar'),
        (lambda losses: {}, 'needs at least one loss'),
        (lambda losses: {'l1': torch.ones((), requires_grad=True)}, 'do not depend on the input'),
    ],
)
def test_wrong_losses_are_named(change, message):
    _, wav_hat = setup()
    with pytest.raises(ValueError, match=message):
        WeightedSum({'l1': 1.0, 'l2': 1.0}).backward(change(losses_of(wav_hat)), wav_hat)


def test_weights_are_checked():
    with pytest.raises(ValueError, match="weight of the loss 'l1' must be finite"):
        WeightedSum({'l1': -1.0})
