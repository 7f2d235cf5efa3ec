"""Split quantizer: the sum of two residual quantizers, projections, and items left unquantized."""

import pytest
import torch
from torch.nn import functional as F

from audiocodec.quantization import SplitResidualVectorQuantizer
from audiocodec.utils import distrib


def latents(batch=4, dimension=8, frames=50, seed=0):
    return torch.randn(batch, dimension, frames, generator=torch.Generator().manual_seed(seed))


def quantizer(n_q=4, **kwargs):
    torch.manual_seed(0)
    options = {'dimension': 8, 'bins': 32, 'codebook_dimension': 6, 'kmeans_iters': 3}
    return SplitResidualVectorQuantizer(**{**options, **kwargs}, n_q=n_q).train()


def test_output_is_the_sum_of_a_semantic_and_an_acoustic_quantizer():
    rvq, values = quantizer(n_q_semantic=2), latents()
    rvq(values, 12.5)
    result = rvq.eval()(values, 12.5)
    assert result.codes.shape == (4, 4, 50)
    expected = 0
    for part, codes in ((rvq.semantic, result.codes[:, :2]), (rvq.acoustic, result.codes[:, 2:])):
        inside = F.conv1d(values, part.input_proj.weight)
        assert torch.equal(part.rvq.encode(inside), codes)
        entries = sum(
            F.embedding(codes[:, level], part.rvq.codebooks.embed[level]) for level in range(2)
        )
        expected = expected + F.conv1d(entries.transpose(1, 2), part.output_proj.weight)
    torch.testing.assert_close(result.latents, expected)
    assert torch.equal(rvq.decode(result.codes), result.latents)
    assert torch.equal(rvq.encode(values), result.codes)
    torch.testing.assert_close(result.features['semantic'], rvq.decode(result.codes[:, :2]))
    assert result.bandwidth.item() == pytest.approx(4 * 5 * 12.5 / 1000)
    assert rvq.bandwidth(12.5) == pytest.approx(result.bandwidth.item())


def test_gradients():
    rvq = quantizer()
    values = latents().requires_grad_()
    result = rvq(values, 12.5)
    (result.latents.square().mean() + result.losses['commitment']).backward()
    assert values.grad.abs().max() > 0
    names = [name for name, _ in rvq.named_parameters()]
    assert sorted(names) == sorted(
        f'{part}.{end}.weight'
        for part in ('semantic', 'acoustic')
        for end in ('input_proj', 'output_proj')
    )
    assert all(parameter.grad.abs().max() > 0 for parameter in rvq.parameters())
    # straight-through: the gradient passes the projections as if nothing were quantized
    weights = latents(seed=1)
    result = rvq(values, 12.5)
    (found,) = torch.autograd.grad((result.latents * weights).sum(), values, retain_graph=True)
    linear = sum(part.output_proj(part.input_proj(values)) for part in (rvq.semantic, rvq.acoustic))
    (expected,) = torch.autograd.grad((linear * weights).sum(), values)
    torch.testing.assert_close(found, expected)
    # the semantic feature trains only the semantic part
    (result.features['semantic'] * weights).sum().backward()
    assert result.features['semantic'].shape == values.shape


def test_the_semantic_feature_has_no_gradient_for_the_acoustic_part():
    rvq = quantizer()
    rvq(latents(), 12.5).features['semantic'].square().mean().backward()
    assert rvq.semantic.output_proj.weight.grad.abs().max() > 0
    assert rvq.acoustic.output_proj.weight.grad is None


def test_commitment_is_the_mean_over_all_codebooks():
    rvq, values = quantizer(kmeans_init=False), latents()
    rvq.eval()
    result = rvq(values, 12.5)
    parts = [part(values, 12.5).losses['commitment'] for part in (rvq.semantic, rvq.acoustic)]
    torch.testing.assert_close(result.losses['commitment'], (parts[0] + 3 * parts[1]) / 4)


def test_number_of_codebooks():
    rvq, values = quantizer(n_q_semantic=2), latents()
    rvq(values, 12.5)
    rvq.eval()
    codes = rvq.encode(values)
    assert list(rvq.possible_num_codebooks) == [2, 3, 4]
    for number in (2, 3, 4):
        rvq.set_num_codebooks(number)
        result = rvq(values, 12.5)
        assert torch.equal(result.codes, codes[:, :number])
        assert torch.equal(rvq.encode(values), codes[:, :number])
        assert result.metrics['usage'].shape == (number,)
    for number in (1, 5):
        with pytest.raises(ValueError, match=f'cannot use {number} codebooks: .* use 2 to 4'):
            rvq.set_num_codebooks(number)


def test_metrics_are_those_of_all_codebooks():
    rvq = quantizer()
    metrics = rvq(latents(), 12.5).metrics
    assert metrics['usage'].shape == metrics['perplexity'].shape == (4,)
    torch.testing.assert_close(metrics['codebook_usage'], metrics['usage'].mean())
    torch.testing.assert_close(metrics['codebook_usage_min'], metrics['usage'].min())


def test_dropout_never_drops_the_semantic_codebooks():
    rvq = quantizer(n_q=5, n_q_semantic=2, q_dropout=True)
    numbers = {rvq(latents(seed=seed), 12.5).codes.shape[1] for seed in range(30)}
    assert numbers == {3, 4, 5}


def test_items_are_left_unquantized_at_the_rate():
    rvq = quantizer(no_quantization_rate=0.5)
    left = []
    for seed in range(40):
        values = latents(batch=8, frames=10, seed=seed).requires_grad_()
        result = rvq(values, 12.5)
        same = (result.latents == values).flatten(1).all(1)
        assert torch.equal(same, (result.latents == values).flatten(1).any(1))
        left.append(same)
        (grad,) = torch.autograd.grad(result.latents.sum(), values)
        assert torch.equal(grad[same], torch.ones_like(grad[same]))
        assert not torch.equal(result.features['semantic'][same], values[same])
    left = torch.stack(left)
    assert left.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert len({tuple(row) for row in left.tolist()}) > 20, 'the draws must differ'
    rvq.eval()
    assert not (rvq(values, 12.5).latents == values).any()


def test_all_or_no_items_are_left_unquantized():
    values = latents()
    assert torch.equal(quantizer(no_quantization_rate=1.0)(values, 12.5).latents, values)
    assert not (quantizer(no_quantization_rate=0.0)(values, 12.5).latents == values).any()


def test_draws_are_the_same_after_a_resume_and_for_several_workers(monkeypatch):
    rvq = quantizer(no_quantization_rate=0.5)
    for seed in range(3):
        rvq(latents(seed=seed), 12.5)
    other = quantizer(no_quantization_rate=0.5)
    other.load_state_dict(rvq.state_dict())
    values = latents(batch=16)
    drawn = rvq._draw_unquantized(values)
    assert torch.equal(other._draw_unquantized(values), drawn)
    monkeypatch.setattr(distrib, 'world_size', lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distrib, 'rank', lambda rank=rank: rank)
        rows = slice(8 * rank, 8 * rank + 8)
        assert torch.equal(rvq._draw_unquantized(values[rows]), drawn[rows])


def test_without_projections():
    rvq = quantizer(codebook_dimension=None)
    values = latents()
    rvq(values, 12.5)
    assert not list(rvq.parameters())
    assert rvq.semantic.rvq.dimension == 8
    assert rvq.eval()(values, 12.5).codes.shape == (4, 4, 50)


def test_float32_under_autocast():
    rvq, values = quantizer().eval(), latents()
    expected = rvq(values, 12.5)
    with torch.autocast('cpu', torch.bfloat16):
        result = rvq(values.bfloat16(), 12.5)
        assert result.latents.dtype == torch.float32
        assert torch.equal(rvq(values, 12.5).latents, expected.latents)
        assert torch.equal(rvq.decode(expected.codes), expected.latents)


def test_codebooks_without_statistics_still_encode():
    rvq, values = quantizer(), latents()
    rvq(values, 12.5)
    rvq.eval()
    codes = rvq.encode(values)
    rvq.settle_statistics()
    rvq.drop_statistics()
    assert torch.equal(rvq.encode(values), codes)
    assert rvq(values, 12.5).metrics == {}
    assert sorted(rvq.state_dict()) == sorted(
        f'{part}.{name}'
        for part in ('semantic', 'acoustic')
        for name in ('input_proj.weight', 'output_proj.weight', 'rvq.codebooks.embed')
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'n_q': 1}, 'n_q=1, n_q_semantic=1: at least 1 semantic and 1 acoustic'),
        ({'n_q_semantic': 0}, 'n_q_semantic=0'),
        ({'codebook_dimension': 0}, 'codebook_dimension=0: must be at least 1'),
        ({'no_quantization_rate': 1.5}, 'no_quantization_rate=1.5: expected a probability'),
        ({'decay': 1.0}, r'decay=1.0: must be in \[0, 1\)'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SplitResidualVectorQuantizer(**options)


def test_wrong_inputs():
    rvq = quantizer()
    with pytest.raises(ValueError, match='expected'):
        rvq(torch.zeros(1, 7, 5), 12.5)
    with pytest.raises(ValueError, match='from 32 to 32'):
        rvq.decode(torch.full((1, 4, 5), 32))


@pytest.mark.parametrize('n_q_semantic', [1, 2])
@torch.no_grad()
def test_traced_forms_compute_the_same(n_q_semantic):
    rvq, values = quantizer(n_q_semantic=n_q_semantic), latents()
    rvq(values, 12.5)
    rvq.eval()
    codes = rvq.encode(values)
    assert rvq.is_traceable
    assert torch.equal(rvq.traced_encode(values), codes)
    for number in rvq.possible_num_codebooks:
        torch.testing.assert_close(
            rvq.traced_decode(codes[:, :number]), rvq.decode(codes[:, :number])
        )


@torch.no_grad()
def test_ties_are_those_of_the_part_that_differs():
    rvq, values = quantizer(), latents()
    rvq(values, 12.5)
    rvq.eval()
    codes = rvq.encode(values)
    for level, part in ((0, rvq.semantic), (2, rvq.acoustic)):
        found = codes.clone()
        found[1, level, 3] = (found[1, level, 3] + 1) % 32
        inside = part.input_proj(values)
        own = slice(0, 1) if level == 0 else slice(1, None)
        expected = part.rvq.rounding_ties(inside, codes[:, own], found[:, own])
        assert rvq.rounding_ties(values, codes, found) == expected > 1


@torch.no_grad()
def test_a_quantizer_with_more_codebooks_takes_over_those_that_exist():
    source, values = quantizer(n_q=3), latents()
    source(values, 12.5)
    target = quantizer(n_q=5, seed=9)
    target.load_state_dict(target.adapted_state(source.state_dict()))
    assert torch.equal(target.eval().encode(values)[:, :3], source.eval().encode(values))
    assert target.acoustic.rvq.codebooks.inited.tolist() == [1, 1, 0, 0]
    fewer = quantizer(n_q=2)
    fewer.load_state_dict(fewer.adapted_state(source.state_dict()))
    assert torch.equal(fewer.eval().encode(values), source.encode(values)[:, :2])
