import math

import pytest
import torch

from audiocodec.quantization import FiniteScalarQuantizer


@pytest.mark.parametrize('number', [2, 3, 4, 5, 8, 16, 1001, 4096])
def test_every_level_is_reached_and_no_other(number):
    quantizer = FiniteScalarQuantizer(1, [number])
    half_range = (number - 1) / 2
    # Dense in the bounded range, beyond both ends.
    bounded = torch.linspace(-1 + 1e-7, 1 - 1e-7, 40 * number, dtype=torch.float64)
    values = torch.cat([torch.tensor([-1e6]), torch.atanh(bounded).float(), torch.tensor([1e6])])
    codes = quantizer.encode(values[None, None])[0, 0]
    assert codes.unique().tolist() == list(range(number))
    assert (codes.diff() >= 0).all()
    levels = quantizer.decode(torch.arange(number)[None, None])[0, 0]
    torch.testing.assert_close(levels.diff(), torch.full((number - 1,), 1 / (number // 2)))
    assert levels[0] == -1
    assert levels[number // 2] == 0
    assert half_range / (number // 2) <= 1


def test_codes_count_the_levels_of_the_first_channel_fastest():
    quantizer = FiniteScalarQuantizer(3, [3, 5, 4])
    codes = torch.arange(60)
    latents = quantizer.decode(codes[None, None])
    digits = (latents[0] * torch.tensor([1, 2, 2])[:, None]).round() + torch.tensor([1, 2, 2])[
        :, None
    ]
    assert torch.equal(digits.T @ torch.tensor([1.0, 3.0, 15.0]), codes.float())
    # the levels themselves are codes: quantizing the inverse of the bound gives them back
    half = torch.tensor([2, 4, 3])[:, None] * 1.001 / 2
    offset = torch.tensor([0, 0, 0.5])[:, None]
    bounded = latents[0] * torch.tensor([1, 2, 2])[:, None] + offset
    inverse = torch.atanh(bounded / half) - torch.atanh(offset / half)
    assert torch.equal(quantizer.encode(inverse[None])[0, 0], codes)


def test_the_gradient_is_that_of_the_bound():
    quantizer = FiniteScalarQuantizer(2, [5, 4])
    latents = torch.randn(2, 2, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = quantizer(latents, 75.0)
    weights = torch.randn(2, 2, 9, generator=torch.Generator().manual_seed(1))
    (result.latents * weights).sum().backward()
    other = latents.detach().requires_grad_()
    half = torch.tensor([4, 3])[:, None] * 1.001 / 2
    offset = torch.tensor([0, 0.5])[:, None]
    bounded = torch.tanh(other + torch.atanh(offset / half)) * half - offset
    assert (result.latents - bounded / 2).abs().max() <= 0.2501
    (bounded / 2 * weights).sum().backward()
    torch.testing.assert_close(latents.grad, other.grad)


def test_figures():
    quantizer = FiniteScalarQuantizer(128, [8, 8, 8, 6, 5])
    assert quantizer.cardinality == 15360
    assert (quantizer.num_codebooks, quantizer.total_codebooks) == (1, 1)
    assert quantizer.bandwidth(50.0) == pytest.approx(math.log2(15360) * 50 / 1000)
    assert sum(p.numel() for p in quantizer.parameters()) == 128 * 5 + 5 + 5 * 128 + 128
    assert list(FiniteScalarQuantizer(5, [8, 8, 8, 6, 5]).parameters()) == []
    assert quantizer.loss_terms == ()


def test_huge_cardinalities_are_exact():
    quantizer = FiniteScalarQuantizer(20, [8] * 20)
    latents = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0))
    result = quantizer(latents, 75.0)
    assert result.codes.max() > 2**55
    assert torch.equal(quantizer.decode(result.codes), result.latents)


@pytest.mark.parametrize(
    ('levels', 'message'),
    [
        ([], r'levels=\[\]: expected one integer of at least 2'),
        ([8, 1], r'levels=\[8, 1\]: expected'),
        ([8, 2.5], r'levels=\[8, 2.5\]: expected'),
        ([True, 3], 'expected one integer'),
        ([2**31, 2**31, 2], r'may be at most 2\*\*62'),
    ],
)
def test_unsuitable_levels_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        FiniteScalarQuantizer(8, levels)
