import math

import pytest
import torch
from torch import nn

from audiocodec.adversarial import CRITERIA, FeatureMatchingLoss, get_criterion

LOGITS = torch.tensor([[-3.0, -1.0, 0.0], [0.5, 1.0, 4.0]])


@pytest.mark.parametrize(
    ('name', 'generator', 'real', 'fake'),
    [
        ('hinge', -1.5 / 6, (4 + 2 + 1 + 0.5) / 6, (1 + 1.5 + 2 + 5) / 6),
        ('hinge2', (4 + 2 + 1 + 0.5) / 6, (4 + 2 + 1 + 0.5) / 6, (1 + 1.5 + 2 + 5) / 6),
        (
            'mse',
            (16 + 4 + 1 + 0.25 + 9) / 6,
            (16 + 4 + 1 + 0.25 + 9) / 6,
            (9 + 1 + 0.25 + 1 + 16) / 6,
        ),
    ],
)
def test_criteria_by_hand(name, generator, real, fake):
    criterion = get_criterion(name)
    assert criterion.generator(LOGITS).item() == pytest.approx(generator)
    assert criterion.real(LOGITS).item() == pytest.approx(real)
    assert criterion.fake(LOGITS).item() == pytest.approx(fake)


@pytest.mark.parametrize('name', CRITERIA)
def test_real_and_fake_losses_are_equal_at_the_boundary(name):
    criterion = get_criterion(name)
    boundary = torch.tensor([criterion.boundary])
    assert criterion.real(boundary) == criterion.fake(boundary)
    assert criterion.real(boundary + 0.1) < criterion.fake(boundary + 0.1)


def test_unknown_criterion_lists_the_known():
    with pytest.raises(ValueError, match="'hinge3' is unknown: choose one of hinge, hinge2, mse"):
        get_criterion('hinge3')


def test_criteria_average_bfloat16_logits_in_float32():
    logits = torch.full((4096,), 0.01, dtype=torch.bfloat16)
    for criterion in CRITERIA.values():
        for part in (criterion.generator, criterion.real, criterion.fake):
            assert part(logits).dtype == torch.float32
    assert get_criterion('hinge').generator(logits).item() == pytest.approx(
        -logits[0].item(), rel=1e-5
    )


def test_feature_matching_weights_layers_of_any_size_equally():
    fake = [torch.zeros(2, 3, 5), torch.zeros(2, 7)]
    real = [torch.full((2, 3, 5), 1.0), torch.full((2, 7), -4.0)]
    assert FeatureMatchingLoss()(fake, real).item() == 2.5
    assert FeatureMatchingLoss(normalize=False)(fake, real).item() == 5.0
    assert FeatureMatchingLoss(nn.MSELoss())(fake, real).item() == (1 + 16) / 2


def test_feature_matching_is_float32_under_autocast():
    fake = [torch.full((1000,), 1 + 2**-7, dtype=torch.bfloat16)]
    real = [torch.ones(1000, dtype=torch.bfloat16)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = FeatureMatchingLoss()(fake, real)
    assert value.dtype == torch.float32
    assert math.isclose(value.item(), 2**-7, rel_tol=1e-6)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_default_distance_is_l1_with_gradients_in_the_memory_format_of_the_maps(memory_format):
    torch.manual_seed(0)
    maps = [
        torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format).requires_grad_()
        for _ in range(2)
    ]
    maps[0].data[0] = maps[1].data[0]
    values = [FeatureMatchingLoss(loss)([maps[0]], [maps[1]]) for loss in (None, nn.L1Loss())]
    torch.testing.assert_close(values[0], values[1])
    ours, plain = (torch.autograd.grad(3 * value, maps) for value in values)
    torch.testing.assert_close(ours, plain)
    assert all(gradient.is_contiguous(memory_format=memory_format) for gradient in ours)
    (detached,) = torch.autograd.grad(
        FeatureMatchingLoss()([maps[0]], [maps[1].detach()]), maps[:1]
    )
    torch.testing.assert_close(detached, plain[0] / 3)
