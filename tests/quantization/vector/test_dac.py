"""DAC's quantizer follows its formulas, with a number of codebooks drawn for some items."""

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
    generator = distrib.shared_generator(0, 0x44414301, 0)
    draws = torch.randint(1, 4, (4,), generator=generator).tolist()
    # the items that are drawn are spread evenly over the batch
    drawn = {0.0: [], 0.5: [1, 3], 1.0: [0, 1, 2, 3]}[q_dropout]
    used = [draws[item] if item in drawn else 3 for item in range(4)]
    assert q_dropout == 0 or min(used) < 3
    result = quantizer(latents, frame_rate=10.0)
    expected = by_definition(quantizer, latents, used)
    assert torch.equal(result.codes, expected[1])
    torch.testing.assert_close(result.latents, expected[0])
    torch.testing.assert_close(result.losses['commitment'], expected[2])
    torch.testing.assert_close(result.losses['codebook'], expected[3])
    assert result.bandwidth.item() == pytest.approx(3 * 4 * 10 / 1000)
    weights = torch.randn(4, 6, 5)
    inputs = [latents, *quantizer.parameters()]
    ours = (result.latents * weights).sum() + sum(result.losses.values())
    theirs = (expected[0] * weights).sum() + expected[2] + expected[3]
    for mine, other in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(mine, other)


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
    assert quantizer.statistics.updates.item() == 3


def test_the_draws_of_two_workers_are_those_of_one(monkeypatch):
    quantizer = make(n_q=8, q_dropout=1.0)
    latents = torch.zeros(6, 6, 2)
    whole = quantizer._draw_masks(latents, 8)
    monkeypatch.setattr(distrib, 'world_size', lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distrib, 'rank', lambda rank=rank: rank)
        parts.append(quantizer._draw_masks(latents[:3], 8))
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert quantizer.eval()._draw_masks(latents, 8) is None


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'n_q': 0}, 'n_q=0'),
        ({'bins': 0}, 'bins=0'),
        ({'codebook_dim': 0}, 'codebook_dim=0'),
        ({'q_dropout': 1.5}, 'q_dropout=1.5: expected a fraction'),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
