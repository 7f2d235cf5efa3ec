import math

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from audiocodec.quantization.vector.strided import StridedResidualQuantizer, _average


def latents(batch=2, dimension=6, frames=16, seed=0):
    return torch.randn(batch, dimension, frames, generator=torch.Generator().manual_seed(seed))


def quantizer(dimension=6, strides=(4, 2, 1), bins=32, codebook_dim=3, **kwargs):
    torch.manual_seed(0)
    return StridedResidualQuantizer(dimension, strides, bins, codebook_dim, **kwargs).train()


# Groups of frames


@pytest.mark.parametrize('frames', [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize('stride', [1, 2, 4])
def test_the_last_group_averages_the_frames_there_are(frames, stride):
    values = latents(frames=frames)
    expected = [part.mean(-1) for part in values.split(stride, dim=-1)]
    torch.testing.assert_close(_average(values, stride), torch.stack(expected, dim=-1))


@pytest.mark.parametrize('frames', [1, 2, 7, 16, 18])
def test_codes_are_repeated_within_their_group(frames):
    model, values = quantizer(), latents(frames=frames)
    codes = model.encode(values)
    assert codes.shape == (2, 3, frames)
    assert codes.dtype == torch.int64
    for level, stride in enumerate(model.strides):
        first = torch.arange(frames) // stride * stride
        assert torch.equal(codes[:, level], codes[:, level, first])


@pytest.mark.parametrize('frames', [1, 2, 7, 16, 18])
def test_ragged_codes_are_those_of_the_groups_and_convert_back(frames):
    model = quantizer()
    codes = model.encode(latents(frames=frames))
    ragged = model.to_ragged(codes)
    assert [part.shape for part in ragged] == [(2, math.ceil(frames / s)) for s in (4, 2, 1)]
    assert torch.equal(model.from_ragged(ragged), codes)
    assert torch.equal(model.from_ragged(ragged[:2], frames), codes[:, :2])


def test_ragged_codes_without_a_finest_level():
    model = quantizer(strides=(4, 2))
    ragged = [torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, 6]])]
    codes = model.from_ragged(ragged)
    assert codes.tolist() == [[[1, 1, 1, 1, 2, 2, 2, 2], [3, 3, 4, 4, 5, 5, 6, 6]]]
    assert model.from_ragged(ragged, frames=7).tolist() == codes[..., :7].tolist()


@pytest.mark.parametrize(
    ('lengths', 'frames', 'expected'),
    [
        ([1, 2, 8], None, r'levels with \[1, 2, 8\] codes: expected \[1, 2, 4\] for 4 frames'),
        ([2, 4, 8], 9, r'expected \[3, 5, 9\] for 9 frames'),
        ([2, 4, 8, 8], None, '4 levels of codes: expected 1 to 3'),
        ([], None, '0 levels of codes'),
    ],
)
def test_ragged_codes_that_do_not_fit_are_refused(lengths, frames, expected):
    ragged = [torch.zeros(1, length, dtype=torch.int64) for length in lengths]
    with pytest.raises(ValueError, match=expected):
        quantizer().from_ragged(ragged, frames)


def test_codes_of_another_shape_have_no_ragged_form():
    with pytest.raises(ValueError, match=r'codes have shape \[1, 4, 8\]'):
        quantizer().to_ragged(torch.zeros(1, 4, 8))


# Quantizing


@pytest.mark.parametrize('frames', [7, 16])
def test_decode_equals_the_latents_of_forward_exactly(frames):
    model, values = quantizer(), latents(frames=frames)
    result = model.eval()(values, 50.0)
    assert torch.equal(model.decode(result.codes), result.latents)
    assert torch.equal(model.encode(values), result.codes)


@torch.no_grad()
def test_levels_quantize_the_residual_by_the_angle():
    model, values = quantizer(), latents()
    codes = model.encode(values)
    residual = values
    for k, (stride, level) in enumerate(zip(model.strides, model.levels)):
        mean = residual.unflatten(-1, (-1, stride)).mean(-1)
        book = F.normalize(level.codebook.weight)
        similar = torch.einsum('bdt,nd->btn', F.normalize(level.in_proj(mean), dim=1), book)
        assert torch.equal(similar.argmax(-1), codes[:, k, ::stride])
        entries = level.codebook.weight[codes[:, k, ::stride]].transpose(1, 2)
        residual = residual - level.out_proj(entries).repeat_interleave(stride, dim=-1)
    torch.testing.assert_close(values - residual, model.decode(codes))


def test_decode_reads_the_first_frame_of_each_group():
    model = quantizer()
    codes = model.encode(latents())
    changed = codes.clone()
    changed[:, 0, 1::4] = 0
    assert torch.equal(model.decode(changed), model.decode(codes))
    changed[:, 0, 0] = (codes[:, 0, 0] + 1) % 32
    differs = (model.decode(changed) != model.decode(codes)).any(1)
    assert differs[:, :4].all()
    assert not differs[:, 4:].any()


def test_fewer_codebooks():
    model, values = quantizer(), latents()
    codes = model.encode(values)
    model.set_num_codebooks(2)
    assert torch.equal(model.encode(values), codes[:, :2])
    result = model(values, 50.0)
    assert result.codes.shape == (2, 2, 16)
    assert torch.equal(model.decode(codes[:, :2]), result.latents)
    assert result.metrics['usage'].shape == (2,)
    with pytest.raises(ValueError, match='cannot use 4 codebooks: this quantizer can use 1 to 3'):
        model.set_num_codebooks(4)


@pytest.mark.parametrize('frames', [2, 7, 16])
@torch.no_grad()
def test_traced_forms_compute_the_same(frames):
    model, values = quantizer(), latents(frames=frames)
    codes = model.encode(values)
    assert model.is_traceable
    assert torch.equal(model.traced_encode(values), codes)
    for number in (1, 3):
        expected = model.decode(codes[:, :number])
        torch.testing.assert_close(model.traced_decode(codes[:, :number]), expected)


@pytest.mark.slow
@torch.no_grad()
def test_can_be_traced_for_any_batch_length_and_number_of_codebooks():
    model = quantizer()

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer = model

        def forward(self, values, codes):
            return self.quantizer.traced_encode(values), self.quantizer.traced_decode(codes)

    batch, frames, levels = Dim('batch', min=1), Dim('frames', min=2), Dim('levels', min=1, max=3)
    program = torch.export.export(
        Both(),
        (latents(frames=9), model.encode(latents(frames=9))),
        dynamic_shapes=({0: batch, 2: frames}, {0: batch, 1: levels, 2: frames}),
    ).module()
    values = latents(batch=3, frames=14, seed=1)
    expected = model.encode(values)
    codes, decoded = program(values, expected[:, :2])
    assert torch.equal(codes, expected)
    torch.testing.assert_close(decoded, model.decode(expected[:, :2]))


def test_empty_codes_and_latents():
    model = quantizer()
    assert model.decode(torch.zeros(2, 3, 0, dtype=torch.int64)).shape == (2, 6, 0)
    assert model.encode(torch.zeros(2, 6, 0)).shape == (2, 3, 0)
    with pytest.raises(ValueError, match='at least one item and one frame'):
        model(torch.zeros(2, 6, 0), 50.0)


def test_bandwidth_counts_a_code_of_a_group_once():
    model = StridedResidualQuantizer(dimension=4)
    rate = 24000 / 512
    assert model.bandwidth(rate) == pytest.approx(0.984375)  # 1.75 codes of 12 bits per frame
    assert model.bandwidth(rate, 1) == pytest.approx(12 * rate / 4 / 1000)
    model.set_num_codebooks(2)
    expected = 12 * rate * 0.75 / 1000
    assert model.bandwidth(rate) == pytest.approx(expected)
    assert model(torch.randn(1, 4, 8), rate).bandwidth.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'strides': (4, 0)}, r'strides=\(4, 0\): expected a non-empty list of integers >= 1'),
        ({'strides': ()}, 'strides='),
        ({'bins': 0}, 'bins=0'),
        ({'codebook_dim': 0}, 'codebook_dim=0'),
        ({'dimension': 0}, 'dimension=0'),
    ],
)
def test_arguments_out_of_range_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        quantizer(**options)


# Training


def test_losses_are_sums_over_the_codebooks():
    model, values = quantizer(), latents()
    result = model(values, 50.0)
    total = 0.0
    residual = values
    for k, (stride, level) in enumerate(zip(model.strides, model.levels)):
        projected = level.in_proj(residual.unflatten(-1, (-1, stride)).mean(-1))
        codes = result.codes[:, k, ::stride]
        entries = level.codebook(codes).transpose(1, 2)
        total += (projected - entries).square().mean().item()
        residual = residual - level.decode(codes).repeat_interleave(stride, dim=-1)
    assert tuple(result.losses) == model.loss_terms
    for loss in result.losses.values():
        assert loss.item() == pytest.approx(total, rel=1e-5)


def test_losses_reach_their_side_only():
    model, values = quantizer(), latents().requires_grad_()
    books = [level.codebook.weight for level in model.levels]
    losses = model(values, 50.0).losses
    grads = torch.autograd.grad(losses['codebook'], books, retain_graph=True)
    assert all(grad.abs().sum() > 0 for grad in grads)
    (grad,) = torch.autograd.grad(losses['commitment'], values, retain_graph=True)
    assert grad.abs().sum() > 0
    none = torch.autograd.grad(losses['commitment'], books, allow_unused=True)
    assert none == (None, None, None)


def test_the_gradient_passes_through_the_projections():
    """Of one level without groups: that of both projections, with the search as the identity."""
    model = quantizer(strides=(1,))
    values = latents().requires_grad_()
    weights = torch.randn(2, 6, 16)
    (grad,) = torch.autograd.grad((model(values, 50.0).latents * weights).sum(), values)
    level = model.levels[0]
    path = level.out_proj(level.in_proj(values))
    (expected,) = torch.autograd.grad((path * weights).sum(), values)
    torch.testing.assert_close(grad, expected)


def test_training_fits_the_latents():
    model, values = quantizer(strides=(2, 1), bins=16), latents(batch=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(60):
        result = model(values, 50.0)
        error = F.mse_loss(result.latents, values)
        optimizer.zero_grad()
        (error + result.losses['codebook'] + 0.25 * result.losses['commitment']).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]
    assert result.metrics['codebook_usage_min'] > 0.5


def test_metrics_are_those_of_recent_training_batches():
    model, values = quantizer(strides=(2,), bins=4), latents(frames=8)
    model.eval()(values, 50.0)
    assert model.statistics.usage.sum() == 0
    result = model.train()(values, 50.0)
    counts = torch.bincount(result.codes[:, 0, ::2].flatten(), minlength=4) / 8
    torch.testing.assert_close(model.statistics.usage[0], 0.1 * counts)
    perplexity = torch.special.entr(counts).sum().exp()
    torch.testing.assert_close(result.metrics['codebook_perplexity'], perplexity)
    assert result.metrics['codebook_usage'] == (counts > 0).float().mean()
    state = model.state_dict()
    model.drop_statistics()
    assert model.eval()(values, 50.0).metrics == {}
    dropped = state.keys() - model.state_dict().keys()
    assert dropped == {'statistics.usage', 'statistics.updates'}


def test_computes_in_float32_under_autocast():
    model, values = quantizer().eval(), latents()
    with torch.autocast('cpu', torch.bfloat16):
        result = model(values.bfloat16(), 50.0)
        latents_of_codes = model.decode(result.codes)
        codes = model.encode(values.bfloat16())
    assert result.latents.dtype == latents_of_codes.dtype == torch.float32
    assert torch.equal(codes, result.codes)
    assert torch.equal(latents_of_codes, result.latents)


def test_frames_that_are_quantized_together():
    rvq = quantizer(strides=(4, 6, 1)).eval()
    assert rvq.frame_group == 12
    x = latents(frames=24)
    parts = [rvq.encode(part) for part in x.split(12, dim=-1)]
    assert torch.equal(torch.cat(parts, dim=-1), rvq.encode(x))
    rvq.set_num_codebooks(1)
    assert rvq.frame_group == 4
