import pytest
import torch

from audiocodec.optim.loss_scale import NO_SCALE, DynamicLossScale, LossScales

OK, BAD = torch.tensor(True), torch.tensor(False)
FINITE, INF = torch.tensor(1.0), torch.tensor(torch.inf)


def test_gradients_are_those_of_the_loss():
    scale = DynamicLossScale(initial=2.0**10)
    x = torch.tensor([3.0, -1e-30], requires_grad=True)
    (gradient,) = torch.autograd.grad(scale.scaled(x.square().sum()), x)
    assert gradient[0] == 6 * 1024
    scale.unscale_([gradient])
    assert torch.equal(gradient, 2 * x.detach())


def test_a_gradient_that_float16_cannot_hold_is_kept():
    scale = DynamicLossScale()
    weight = torch.ones(1, requires_grad=True)
    for scaled, expected in ((NO_SCALE, 0.0), (scale, 2.0**-26)):
        loss = scaled.scaled(weight.half().float() * 2.0**-26)
        (gradient,) = torch.autograd.grad(loss.sum(), weight)
        scaled.unscale_([gradient])
        assert gradient.item() == expected


def test_the_scale_is_halved_by_overflow_and_doubled_after_good_updates():
    scale = DynamicLossScale(initial=8.0, growth_interval=3)
    seen = []
    for ok in (BAD, OK, OK, OK, OK, BAD, OK, OK, OK, OK):
        assert scale.update(ok) == ~ok
        seen.append(scale.scale.item())
    assert seen == [4, 4, 4, 8, 8, 4, 4, 4, 8, 8]


def test_a_scale_of_one_is_not_the_reason_of_an_overflow():
    scale = DynamicLossScale(initial=2.0)
    assert [scale.update(BAD).item() for _ in range(3)] == [True, False, False]
    assert scale.scale == 1


def test_the_scale_has_a_limit():
    scale = DynamicLossScale(initial=2.0, growth_interval=1, largest=4.0)
    for _ in range(3):
        scale.update(OK)
    assert scale.scale == 4


def test_the_state_is_restored_exactly():
    scale, other = (DynamicLossScale(initial=8.0, growth_interval=3) for _ in range(2))
    for ok in (BAD, OK, OK):
        scale.update(ok)
    other.load_state_dict(scale.state_dict())
    for each in (scale, other):
        each.update(OK)
    assert other.state_dict() == scale.state_dict() == {'scale': 8.0, 'good': 0}


def test_no_scale_does_nothing():
    value = torch.ones(2)
    assert NO_SCALE.scaled(value) is value
    NO_SCALE.unscale_([value])
    assert torch.equal(value, torch.ones(2))
    scales = LossScales(None)
    assert scales.model is scales.adversaries is NO_SCALE
    assert scales.update(FINITE, FINITE) == scales.state_dict() == {}


@pytest.mark.parametrize(
    ('values', 'halved'),
    [
        ((FINITE, FINITE, OK, FINITE), ''),
        ((INF, FINITE, OK, FINITE), 'model'),
        ((FINITE, INF, OK, FINITE), 'adversaries'),
        ((INF, INF, OK, FINITE), 'model adversaries'),
        # a gradient of the adversarial losses, which makes that of the model infinite too
        ((INF, FINITE, BAD, FINITE), 'adversaries'),
        # the losses are wrong, not the scales
        ((INF, INF, BAD, INF), ''),
        ((None, INF), 'adversaries'),
        ((INF, None, OK, FINITE), 'model'),
    ],
)
def test_the_scale_at_fault_is_halved(values, halved):
    scales = LossScales(torch.device('cpu'))
    metrics = scales.update(*values)
    assert metrics['overflow'] == bool(halved)
    assert metrics['loss_scale'] == metrics['d_loss_scale'] == 2**16
    for name in ('model', 'adversaries'):
        assert getattr(scales, name).scale == 2 ** (15 if name in halved.split() else 16)
    other = LossScales(torch.device('cpu'))
    other.load_state_dict(scales.state_dict())
    assert other.state_dict() == scales.state_dict()
