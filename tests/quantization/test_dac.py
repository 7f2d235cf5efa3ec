import pytest
import torch
from torch.nn import functional as F

from audiocodec.quantization import DACQuantizer
from audiocodec.utils import distrib


def make(**options):
    torch.manual_seed(0)
    return DACQuantizer(**{'dimension': 6, 'n_q': 3, 'bins': 16, 'codebook_dim': 4, **options})


def by_definition(quantizer, latents, used):
    """Latents, codes and the two losses, item by item from the formulas."""
    totals, codes, commitment, codebook = [], [], 0.0, 0.0
    for item, number in zip(latents, used):
        residual, total, own = item, torch.zeros_like(item), []
        for index, level in enumerate(quantizer.levels):
            z = level.in_proj(residual[None])[0]
            book = level.codebook.weight
            chosen = (F.normalize(book) @ F.normalize(z, dim=0)).argmax(0)
            entry = book[chosen].t()
            out = level.out_proj((z + (entry - z).detach())[None])[0]
            residual = residual - out
            if index < number:
                total = total + out
                commitment = commitment + (z - entry.detach()).square().mean() / len(latents)
                codebook = codebook + (entry - z.detach()).square().mean() / len(latents)
            own.append(chosen)
        totals.append(total)
        codes.append(torch.stack(own))
    return torch.stack(totals), torch.stack(codes), commitment, codebook


@pytest.mark.parametrize('q_dropout', [0.0, 0.5, 1.0])
def test_values_and_gradients_follow_the_definition(q_dropout):
    quantizer = make(q_dropout=q_dropout)
    latents = torch.randn(4, 6, 5, requires_grad=True)
    count = int(4 * q_dropout)
    generator = distrib.shared_generator(0, 0x44414301, 0)
    used = torch.randint(1, 4, (count,), generator=generator).tolist() + [3] * (4 - count)
    result = quantizer(latents, frame_rate=10.0)
    expected = by_definition(quantizer, latents, used)
    assert torch.equal(result.codes, expected[1])
    torch.testing.assert_close(result.latents, expected[0])
    torch.testing.assert_close(result.losses['commitment'], expected[2])
    torch.testing.assert_close(result.losses['codebook'], expected[3])
    assert result.bandwidth.item() == pytest.approx(sum(used) / 4 * 4 * 10 / 1000)
    weights = torch.randn(4, 6, 5)
    inputs = [latents, *quantizer.parameters()]
    ours = (result.latents * weights).sum() + sum(result.losses.values())
    theirs = (expected[0] * weights).sum() + expected[2] + expected[3]
    for mine, other in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_decoding_the_codes_gives_exactly_the_latents():
    quantizer = make().eval()
    latents = torch.randn(2, 6, 7)
    for number in (3, 1):
        quantizer.set_num_codebooks(number)
        result = quantizer(latents, 10.0)
        assert result.codes.shape == (2, number, 7)
        assert torch.equal(quantizer.encode(latents), result.codes)
        assert torch.equal(quantizer.decode(result.codes), result.latents)
        assert torch.equal(quantizer.decode(result.codes.numpy()), result.latents)
    with pytest.raises(ValueError, match='cannot use 4 codebooks'):
        quantizer.set_num_codebooks(4)


def test_draws_differ_between_updates_and_repeat_after_a_resume():
    quantizer = make(n_q=8, q_dropout=1.0)
    latents = torch.randn(6, 6, 2)
    quantizer(latents, 10.0)
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    second = quantizer(latents, 10.0)
    third = quantizer(latents, 10.0)
    assert not torch.equal(second.latents, third.latents)
    resumed = make(n_q=8, q_dropout=1.0)
    resumed.load_state_dict(state)
    assert torch.equal(resumed(latents, 10.0).latents, second.latents)
    assert quantizer.updates.item() == 3


def test_usage_is_a_moving_average_of_the_counts():
    quantizer = make(n_q=1, bins=4, codebook_dim=2, dimension=2)
    result = quantizer(torch.randn(1, 2, 8), 10.0)
    counts = torch.bincount(result.codes.flatten(), minlength=4).float()
    torch.testing.assert_close(quantizer.usage[0], 0.1 * counts)
    fractions = counts / 8
    torch.testing.assert_close(result.metrics['usage'][0], (counts > 0).float().mean())
    torch.testing.assert_close(
        result.metrics['perplexity'][0], torch.special.entr(fractions).sum().exp()
    )
    assert result.metrics['codebook_usage_min'].shape == ()
    quantizer.eval()(torch.randn(1, 2, 8), 10.0)
    assert quantizer.updates.item() == 1
    state = quantizer.state_dict()
    quantizer.drop_statistics()
    assert quantizer(torch.randn(1, 2, 8), 10.0).metrics == {}
    fresh = make(n_q=1, bins=4, codebook_dim=2, dimension=2)
    fresh.load_state_dict(quantizer.state_dict())
    assert fresh.usage.sum() == 0
    assert torch.equal(fresh.levels[0].codebook.weight, state['levels.0.codebook.weight'])


def test_float32_under_autocast():
    quantizer = make(q_dropout=0.0)
    latents = torch.randn(2, 6, 5)
    expected = quantizer(latents, 10.0)
    with torch.autocast('cpu', torch.bfloat16):
        found = quantizer(latents, 10.0)
    assert torch.equal(found.latents, expected.latents)
    assert found.latents.dtype == torch.float32


def test_invalid_arguments_are_named_together():
    with pytest.raises(ValueError, match=r'n_q=0.*bins=0.*codebook_dim=0.*q_dropout=1.5'):
        make(n_q=0, bins=0, codebook_dim=0, q_dropout=1.5)
    with pytest.raises(ValueError, match='at least one item'):
        make()(torch.zeros(0, 6, 3), 10.0)
