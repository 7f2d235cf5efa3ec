import math

import pytest
import torch

from audiocodec.quantization import LookupFreeQuantizer


def draw(bits, seed=0, frames=40):
    return torch.randn(3, bits, frames, generator=torch.Generator().manual_seed(seed))


def test_codes_are_the_signs_with_the_first_channel_as_the_highest_bit():
    latents = torch.tensor([[0.3, -2.0, 0.0], [5.0, 0.1, -1.0], [-1.0, 1.0, 2.0]])[None]
    quantizer = LookupFreeQuantizer(3, 3).eval()
    result = quantizer(latents, 75.0)
    assert result.codes.tolist() == [[[0b110, 0b011, 0b001]]]
    assert result.latents.tolist() == [[[1, -1, -1], [1, 1, -1], [-1, 1, 1]]]
    assert result.losses['commitment'] == pytest.approx((latents - result.latents).square().mean())


def test_spherical_codes_and_latents_are_on_the_unit_sphere():
    quantizer = LookupFreeQuantizer(6, 6, spherical=True).eval()
    result = quantizer(draw(6), 75.0)
    torch.testing.assert_close(result.latents.norm(dim=1), torch.ones(3, 40))
    assert torch.equal(result.codes, quantizer.encode(7.5 * draw(6)))
    assert torch.equal(result.codes, LookupFreeQuantizer(6, 6).encode(draw(6)))
    unit = draw(6) / draw(6).norm(dim=1, keepdim=True)
    torch.testing.assert_close(result.losses['commitment'], (unit - result.latents).square().mean())


def by_enumeration(latents, bits, spherical, inv_temperature):
    """Return both entropies, from the probabilities of all codes."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits).view(-1, bits)
    if spherical:
        latents = latents / latents.norm(dim=1, keepdim=True)
        signs = signs * bits**-0.5
    vectors = latents.transpose(1, 2).flatten(0, 1)
    p = (-inv_temperature * torch.cdist(vectors, signs).square()).softmax(1)
    return torch.special.entr(p).sum(1).mean(), torch.special.entr(p.mean(0)).sum()


@pytest.mark.parametrize('spherical', [False, True])
def test_entropies_are_those_of_all_codes(spherical):
    latents = (0.3 * draw(5)).requires_grad_()
    quantizer = LookupFreeQuantizer(
        5, 5, spherical=spherical, inv_temperature=2.0, diversity=0.7, entropy_bits=5
    )
    result = quantizer(latents, 75.0)
    sample, batch = by_enumeration(latents, 5, spherical, 2.0)
    torch.testing.assert_close(result.metrics['sample_entropy'], sample)
    torch.testing.assert_close(result.metrics['batch_entropy'], batch)
    expected = sample - 0.7 * batch
    torch.testing.assert_close(result.losses['entropy'], expected)
    (ours,) = torch.autograd.grad(result.losses['entropy'], latents)
    (theirs,) = torch.autograd.grad(expected, latents)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_groups_of_bits_give_the_sum_of_their_entropies():
    latents = 0.3 * draw(5)
    grouped = LookupFreeQuantizer(5, 5, inv_temperature=2.0, entropy_bits=3)(latents, 75.0)
    parts = [by_enumeration(part, part.shape[1], False, 2.0)[1] for part in latents.split(3, 1)]
    torch.testing.assert_close(grouped.metrics['batch_entropy'], sum(parts))
    assert sum(parts) >= by_enumeration(latents, 5, False, 2.0)[1]


def test_the_entropy_term_evens_the_use_of_codes():
    latents = (0.1 * draw(4) + 0.3).requires_grad_()  # nearly all positive
    quantizer = LookupFreeQuantizer(4, 4, inv_temperature=2.0, diversity=2.0).train()
    optimizer = torch.optim.SGD([latents], lr=20.0)
    before = quantizer(latents, 75.0).codes.unique().numel()
    for _ in range(50):
        optimizer.zero_grad()
        quantizer(latents, 75.0).losses['entropy'].backward()
        optimizer.step()
    result = quantizer(latents, 75.0)
    assert before < 4
    assert result.codes.unique().numel() == 16
    assert result.metrics['sample_entropy'] < 0.1
    assert result.metrics['batch_entropy'] > 0.98 * math.log(16)


def test_many_bits():
    quantizer = LookupFreeQuantizer(8, 62)
    result = quantizer(draw(8), 75.0)
    assert quantizer.cardinality == 2**62
    assert torch.equal(quantizer.decode(result.codes), result.latents)
    assert result.losses['entropy'].isfinite()


def test_unsuitable_arguments_are_refused():
    for arguments, message in [
        ({'bits': 0}, 'bits=0: expected 1 to 62'),
        ({'bits': 63, 'diversity': -1}, 'bits=63.*; diversity=-1'),
        ({'inv_temperature': 0}, 'inv_temperature=0: must be positive'),
        ({'entropy_bits': 17}, 'entropy_bits=17: expected 1 to 16'),
    ]:
        with pytest.raises(ValueError, match=message):
            LookupFreeQuantizer(8, **arguments)
