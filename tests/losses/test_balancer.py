import doctest
import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from torch import distributed
from torch.nn import functional as F

from audiocodec import losses as audiocodec_losses
from audiocodec.losses import Balancer, MelSpectrogramL1Loss

PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'


@pytest.fixture(scope='module')
def parts():
    return load_file(PARITY / 'training_parts.safetensors')


def make_losses(scales=(1.0, 1000.0)):
    wav_hat = torch.randn(4, 1, 100, generator=torch.Generator().manual_seed(0)).requires_grad_()
    other = torch.randn(4, 1, 100, generator=torch.Generator().manual_seed(1))
    return {
        'l1': scales[0] * F.l1_loss(wav_hat, other),
        'l2': scales[1] * F.mse_loss(wav_hat, other),
    }, wav_hat


def grad_of(name, losses, wav_hat):
    return torch.autograd.grad(losses[name], wav_hat, retain_graph=True)[0]


@pytest.mark.parametrize('name', ['balancer_balanced', 'balancer_global', 'balancer_plain'])
def test_three_calls_equal_those_of_audiocraft(name, parts):
    arguments = json.loads((PARITY / 'training_parts.json').read_text())
    balancer = Balancer(**arguments[name])
    mel = MelSpectrogramL1Loss(**arguments['mel'])
    for call in range(3):
        reference = parts['reference']
        wav_hat = (parts['estimate'] * (1 + 0.5 * call)).requires_grad_()
        losses = {
            'l1': F.l1_loss(wav_hat, reference),
            'l2': F.mse_loss(wav_hat, reference),
            'mel': mel(wav_hat, reference),
        }
        effective_loss = balancer.backward(losses, wav_hat)
        expected = parts[f'{name}.{call}.grad']
        assert effective_loss.item() == pytest.approx(
            parts[f'{name}.{call}.effective_loss'].item(), rel=1e-4
        )
        torch.testing.assert_close(
            wav_hat.grad[..., ::97], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )


def test_weights_are_fractions_of_the_gradient_for_any_scale_of_the_losses():
    losses, wav_hat = make_losses((1.0, 1000.0))
    grads = {name: grad_of(name, losses, wav_hat) for name in losses}
    Balancer({'l1': 3.0, 'l2': 1.0}, total_norm=2.0).backward(losses, wav_hat)
    unit = {name: grad / grad.flatten(1).norm(dim=1).mean() for name, grad in grads.items()}
    torch.testing.assert_close(wav_hat.grad, 2 * (0.75 * unit['l1'] + 0.25 * unit['l2']))


def test_global_norm_covers_the_whole_batch():
    losses, wav_hat = make_losses()
    Balancer({'l1': 1.0}, per_batch_item=False, total_norm=5.0).backward(
        {'l1': losses['l1']}, wav_hat
    )
    assert wav_hat.grad.norm().item() == pytest.approx(5.0)


def test_unbalanced_gradient_equals_that_of_the_weighted_sum():
    losses, wav_hat = make_losses()
    expected = 0.5 * grad_of('l1', losses, wav_hat) + 2 * grad_of('l2', losses, wav_hat)
    effective_loss = Balancer({'l1': 0.5, 'l2': 2.0}, balance_grads=False).backward(losses, wav_hat)
    torch.testing.assert_close(wav_hat.grad, expected)
    assert effective_loss.item() == pytest.approx(
        0.5 * losses['l1'].item() + 2 * losses['l2'].item()
    )


def test_norms_are_averaged_over_calls():
    balancer = Balancer({'l1': 1.0}, ema_decay=0.5)
    grads = []
    for scale in (1.0, 4.0):
        losses, wav_hat = make_losses((scale, 1.0))
        grads.append(grad_of('l1', losses, wav_hat))
        balancer.backward({'l1': losses['l1']}, wav_hat)
    norms = [grad.flatten(1).norm(dim=1).mean() for grad in grads]
    torch.testing.assert_close(wav_hat.grad, grads[1] / ((0.5 * norms[0] + norms[1]) / 1.5))


def test_a_decay_of_one_is_the_mean_of_all_calls():
    balancer = Balancer({'l1': 1.0}, ema_decay=1.0)
    for scale in (1.0, 2.0, 6.0):
        losses, wav_hat = make_losses((scale, 1.0))
        balancer.backward({'l1': losses['l1']}, wav_hat)
    assert wav_hat.grad.flatten(1).norm(dim=1).mean().item() == pytest.approx(6 / 3)


def test_monitor_reports_fractions_before_rescaling():
    losses, wav_hat = make_losses()
    norms = {name: grad_of(name, losses, wav_hat).flatten(1).norm(dim=1).mean() for name in losses}
    balancer = Balancer({'l1': 1.0, 'l2': 1.0}, monitor=True)
    assert balancer.metrics == {}
    balancer.backward(losses, wav_hat)
    assert list(balancer.metrics) == ['ratio_l1', 'ratio_l2']
    assert balancer.metrics['ratio_l1'].shape == ()
    assert balancer.metrics['ratio_l1'].item() == pytest.approx(
        (norms['l1'] / (norms['l1'] + norms['l2'])).item()
    )
    assert sum(balancer.metrics.values()).item() == pytest.approx(1.0)


def test_gradient_reaches_the_model_through_the_input():
    model = torch.nn.Linear(10, 10)
    wav_hat = model(torch.ones(2, 10))
    Balancer({'l1': 1.0}).backward({'l1': wav_hat.abs().mean()}, wav_hat)
    assert model.weight.grad.norm() > 0


def run(balancer, calls):
    grads = []
    for call in calls:
        losses, wav_hat = make_losses((1.0 + call, 3.0 * call + 1.0))
        balancer.backward(losses, wav_hat)
        grads.append(wav_hat.grad)
    return grads


@pytest.mark.parametrize('done', [0, 2])
def test_resuming_is_exact(done):
    weights = {'l1': 1.0, 'l2': 2.0}
    whole, first, second = Balancer(weights), Balancer(weights), Balancer(weights)
    expected = run(whole, range(5))
    run(first, range(done))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert list(second.state_dict()) == ['norm_l1', 'norm_l2']
    for grad, other in zip(run(second, range(done, 5)), expected[done:], strict=True):
        assert torch.equal(grad, other)


def test_a_missing_loss_changes_neither_its_average_nor_the_balance_of_the_others():
    balancer = Balancer({'l1': 1.0, 'l2': 3.0})
    run(balancer, [0])
    before = balancer.state_dict()['norm_l2'].clone()
    losses, wav_hat = make_losses()
    balancer.backward({'l1': losses['l1']}, wav_hat)
    assert wav_hat.grad.flatten(1).norm(dim=1).mean().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(balancer.state_dict()['norm_l2'], before)


def test_a_nan_does_not_stay_in_the_averages():
    balancer = Balancer({'l1': 1.0, 'l2': 3.0})
    run(balancer, [0])
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    losses, wav_hat = make_losses((math.nan, 1.0))
    balancer.backward(losses, wav_hat)
    assert wav_hat.grad.isnan().any()
    # The other average is not updated, either: the whole update is skipped.
    for name, value in balancer.state_dict().items():
        assert torch.equal(value, before[name])


def test_under_autocast_gradients_stay_in_float32():
    reference = torch.randn(2, 1, 3000, generator=torch.Generator().manual_seed(1))
    mel = MelSpectrogramL1Loss(24000)
    grads = []
    for enabled in (False, True):
        wav_hat = torch.randn(
            2, 1, 3000, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            Balancer({'mel': 1.0}).backward({'mel': mel(wav_hat, reference)}, wav_hat)
        grads.append(wav_hat.grad)
    assert torch.equal(*grads)


def test_losses_that_cannot_be_balanced_are_named():
    losses, wav_hat = make_losses()
    balancer = Balancer({'l1': 1.0, 'l2': 1.0, 'lone': 1.0})
    with pytest.raises(
        ValueError, match=r'no weight for the loss .adv.: it has weights for l1, l2, lone'
    ):
        balancer.backward({'adv': losses['l1']}, wav_hat)
    with pytest.raises(ValueError, match=r'loss .lone. does not depend on the input'):
        balancer.backward({**losses, 'lone': torch.ones((), requires_grad=True) * 2}, wav_hat)
    with pytest.raises(ValueError, match=r'loss .lone. does not depend on the input'):
        balancer.backward({**losses, 'lone': torch.ones(())}, wav_hat)
    with pytest.raises(ValueError, match=r'loss .l1. must be a scalar, got the shape \[2\]'):
        balancer.backward({'l1': torch.ones(2)}, wav_hat)
    with pytest.raises(ValueError, match='does not require grad'):
        balancer.backward(losses, wav_hat.detach())
    with pytest.raises(ValueError, match=r'shape \[B, ...\], got \[400\]'):
        balancer.backward(losses, wav_hat.reshape(-1))
    with pytest.raises(ValueError, match='at least one loss with a positive weight'):
        balancer.backward({}, wav_hat)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'weights': {}}, 'at least one'),
        ({'weights': {'l1': 0.0}}, 'at least one'),
        ({'weights': {'l1': -1.0}}, r'.l1. must be finite and not negative, got -1'),
        ({'weights': {'l1': math.nan}}, 'finite'),
        ({'weights': {'a.b': 1.0}}, 'dot'),
        ({'weights': {'l1': 1.0}, 'total_norm': 0.0}, 'total_norm'),
        ({'weights': {'l1': 1.0}, 'ema_decay': 1.1}, 'ema_decay'),
        ({'weights': {'l1': 1.0}, 'epsilon': -1.0}, 'epsilon'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Balancer(**arguments)


def test_the_effective_loss_is_scaled_like_its_gradient():
    plain, halved = (
        Balancer({'l1': 3.0, 'l2': 1.0}, reference_batch_size=size).backward(*make_losses())
        for size in (None, 2)
    )
    assert halved.item() == pytest.approx(plain.item() / 2, rel=1e-6)


def test_the_docstring_example_is_correct():
    assert doctest.testmod(audiocodec_losses.balancer) == (0, 5)


def _sharded_losses(call, items):
    generator = torch.Generator().manual_seed(call)
    wav_hat, other = torch.randn(2, 4, 1, 100, generator=generator)
    wav_hat = wav_hat[items].clone().requires_grad_()
    other = torch.arange(1.0, 5.0).view(4, 1, 1)[items] * other[items]
    return {'l1': (wav_hat - other).abs().mean(), 'l2': (wav_hat - other).square().mean()}, wav_hat


@pytest.mark.slow
@pytest.mark.parametrize('per_batch_item', [True, False])
def test_two_workers_balance_as_one(tmp_path, per_batch_item):
    workers = [
        Forked([__file__, str(rank), str(tmp_path), str(per_batch_item)]) for rank in range(2)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    whole = Balancer({'l1': 1.0, 'l2': 2.0}, per_batch_item=per_batch_item)
    for call in range(3):
        losses, wav_hat = _sharded_losses(call, slice(None))
        whole.backward(losses, wav_hat)
    first, second = (torch.load(tmp_path / f'{rank}.th', weights_only=True) for rank in range(2))
    # Averaged, as the solver does with the gradients of the parameters.
    torch.testing.assert_close(torch.cat([first['grad'], second['grad']]) / 2, wav_hat.grad)
    for name, value in whole.state_dict().items():
        assert torch.equal(first['state'][name], second['state'][name])
        torch.testing.assert_close(first['state'][name], value)


def _work(rank, folder, per_batch_item):
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    balancer = Balancer({'l1': 1.0, 'l2': 2.0}, per_batch_item=per_batch_item, monitor=True)
    for call in range(3):
        losses, wav_hat = _sharded_losses(call, slice(2 * rank, 2 * rank + 2))
        balancer.backward(dict(sorted(losses.items(), reverse=bool(rank))), wav_hat)
    torch.save({'state': balancer.state_dict(), 'grad': wav_hat.grad}, f'{folder}/{rank}.th')
    distributed.destroy_process_group()


def weight_gradient(balancer, items, commitment, **kwargs):
    """Return the gradient of balanced losses and a commitment loss at a weight of all items."""
    weight = torch.ones((), requires_grad=True)
    wav_hat = weight * items
    losses = {
        'l1': F.l1_loss(wav_hat, torch.zeros_like(items)),
        'l2': F.mse_loss(wav_hat, 0.5 * items.roll(1, -1)),
    }
    extra_loss = commitment * (weight * items).square().mean() if commitment else None
    balancer.backward(losses, wav_hat, extra_loss=extra_loss)
    return weight.grad.item()


@pytest.mark.parametrize('per_batch_item', [True, False])
def test_weight_of_the_commitment_does_not_depend_on_the_batch_size(per_batch_item):
    """Batches repeat the 8 items of a worker in the published grids, up to a batch of 64."""
    eight = torch.randn(8, 1, 200, generator=torch.Generator().manual_seed(3))
    found = {}
    for repeats in (1, 2, 8):
        arguments = {'per_batch_item': per_batch_item, 'reference_batch_size': 8}
        items = eight.repeat(repeats, 1, 1)
        found[repeats] = [
            weight_gradient(Balancer({'l1': 3.0, 'l2': 1.0}, **arguments), items, commitment)
            for commitment in (0.0, 1.0)
        ]
    for balanced, both in found.values():
        assert balanced == pytest.approx(found[1][0], rel=1e-4)
        assert both == pytest.approx(found[1][1], rel=1e-4)
    # With 8 items, reference_batch_size=8 changes nothing.
    unscaled = weight_gradient(
        Balancer({'l1': 3.0, 'l2': 1.0}, per_batch_item=per_batch_item), eight, 0.0
    )
    assert found[1][0] == pytest.approx(unscaled, rel=1e-6)


def test_reference_batch_size_equals_eight_workers_of_the_published_grids():
    """Each worker balances its 8 items by norms averaged over the workers."""
    items = torch.randn(64, 1, 200, generator=torch.Generator().manual_seed(4))
    weights = {'l1': 3.0, 'l2': 1.0}
    gradients = {}
    norms = {}
    for rank, own in enumerate(items.split(8)):
        wav_hat = own.clone().requires_grad_()
        losses = {
            'l1': F.l1_loss(wav_hat, torch.zeros_like(own)),
            'l2': F.mse_loss(wav_hat, 0.5 * own.roll(1, -1)),
        }
        for name in weights:
            grad = gradients[rank, name] = grad_of(name, losses, wav_hat)
            norms[rank, name] = grad.flatten(1).norm(dim=1).mean()
    mean_norms = {}
    for name in weights:
        mean_norms[name] = torch.stack([norms[rank, name] for rank in range(8)]).mean()
    published = 0.0
    for rank, own in enumerate(items.split(8)):
        for name, weight in weights.items():
            balanced = weight / 4 * gradients[rank, name] / mean_norms[name]
            published += (balanced * own).sum().item() / 8
    ours = weight_gradient(Balancer(weights, reference_batch_size=8), items, 0.0)
    assert ours == pytest.approx(published, rel=1e-4)
    # Without it, as AudioCraft with 64 items on one worker.
    whole = weight_gradient(Balancer(weights), items, 0.0)
    assert whole == pytest.approx(8 * published, rel=1e-4)


def test_gradient_of_an_extra_loss_is_added_in_the_same_pass():
    signal = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    target = torch.ones(3, 2)

    def gradient(combined):
        weight = torch.tensor([0.3, -0.2], requires_grad=True)
        latents = signal * weight
        wav_hat = latents * 2
        commitment = 0.7 * latents.square().mean()
        losses = {'l1': F.l1_loss(wav_hat, target)}
        if combined:
            Balancer({'l1': 1.0}).backward(losses, wav_hat, extra_loss=commitment)
        else:
            commitment.backward(retain_graph=True)
            Balancer({'l1': 1.0}).backward(losses, wav_hat)
        return weight.grad

    torch.testing.assert_close(gradient(combined=True), gradient(combined=False))


def test_an_extra_loss_without_gradient_is_ignored():
    losses, wav_hat = make_losses()
    Balancer({'l1': 1.0, 'l2': 1.0}).backward(losses, wav_hat, extra_loss=torch.zeros(()))
    assert wav_hat.grad is not None


def test_weight_factors_apply_to_one_call():
    def gradient(balancer, factors=None):
        wav_hat = torch.tensor([[[0.5, -0.25, 0.1]]], requires_grad=True)
        losses = {'l1': wav_hat.abs().sum(), 'l2': wav_hat.square().sum()}
        balancer.backward(losses, wav_hat, weight_factors=factors)
        return wav_hat.grad

    for balance in (True, False):
        balancer = Balancer({'l1': 1.0, 'l2': 4.0}, balance_grads=balance)
        expected = gradient(Balancer({'l1': 1.0, 'l2': 1.0}, balance_grads=balance))
        torch.testing.assert_close(gradient(balancer, {'l2': 0.25}), expected)
        torch.testing.assert_close(
            gradient(balancer), gradient(Balancer({'l1': 1.0, 'l2': 4.0}, balance_grads=balance))
        )


def test_graphs_of_the_losses_are_freed_before_the_backward_pass_of_the_model():
    weight = torch.ones(4, 1, 100, requires_grad=True)
    losses = {}
    graphs = []

    class Model(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.clone()

        @staticmethod
        def backward(ctx, grad):
            graphs.extend(loss.grad_fn for loss in losses.values())
            return grad

    wav_hat = Model.apply(weight)
    losses.update(l1=F.l1_loss(wav_hat, torch.zeros(4, 1, 100)), l2=wav_hat.square().mean())
    values = [loss.item() for loss in losses.values()]
    Balancer({'l1': 1.0, 'l2': 1.0}).backward(losses, wav_hat)
    assert graphs == [None, None]
    assert [loss.item() for loss in losses.values()] == values
    assert weight.grad.abs().min() > 0


if __name__ == '__main__':
    _work(int(sys.argv[1]), sys.argv[2], sys.argv[3] == 'True')
