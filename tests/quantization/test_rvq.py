import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.quantization.gradients import pass_gradient

PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'


def latents(batch=4, dimension=8, frames=50, seed=0, scale=1.0):
    return scale * torch.randn(
        batch, dimension, frames, generator=torch.Generator().manual_seed(seed)
    )


def quantizer(dimension=8, n_q=4, bins=32, **kwargs):
    return ResidualVectorQuantizer(dimension, n_q=n_q, bins=bins, **kwargs).train()


def foreign_state(tensors, prefix, levels):
    state = {'codebooks.inited': torch.ones(levels)}
    for name in ('embed', 'embed_avg', 'cluster_size'):
        parts = [tensors[f'{prefix}vq.layers.{i}._codebook.{name}'] for i in range(levels)]
        state[f'codebooks.{name}'] = torch.stack(parts)
    return state


# Parity with AudioCraft


def test_training_update_equals_audiocraft():
    tensors = load_file(PARITY / 'training_parts.safetensors')
    settings = json.loads((PARITY / 'training_parts.json').read_text())['rvq']
    rvq = ResidualVectorQuantizer(**settings).train()
    rvq.load_state_dict(foreign_state(tensors, 'rvq.before.', rvq.total_codebooks))
    values = tensors['rvq.latents'].requires_grad_()

    result = rvq(values, frame_rate=50)
    (result.latents.square().mean() + result.losses['commitment']).backward()

    assert torch.equal(result.codes, tensors['rvq.codes'])
    for found, name in [
        (result.latents, 'quantized'),
        (result.losses['commitment'][None], 'commitment_loss'),
        (result.bandwidth[None], 'bandwidth_kbps'),
        (values.grad, 'latents_grad'),
    ]:
        torch.testing.assert_close(found, tensors[f'rvq.{name}'], rtol=1e-5, atol=1e-6)
    after = foreign_state(tensors, 'rvq.after.', rvq.total_codebooks)
    for name, expected in after.items():
        torch.testing.assert_close(rvq.state_dict()[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['causal_24khz', 'musicgen_32khz', 'stereo_48khz'])
def test_codes_equal_audiocraft_exactly(name):
    state = torch.load(PARITY / f'{name}.audiocraft.bin', weights_only=True)['best_state']
    tensors = load_file(PARITY / f'{name}.io.safetensors')
    levels = tensors['codes'].shape[1]
    bins, dimension = state['quantizer.vq.layers.0._codebook.embed'].shape
    rvq = ResidualVectorQuantizer(dimension, n_q=levels, bins=bins).eval()
    rvq.load_state_dict(foreign_state(state, 'quantizer.', levels))
    assert torch.equal(rvq.encode(tensors['latents']), tensors['codes'])
    assert torch.equal(rvq(tensors['latents'], 75.0).codes, tensors['codes'])
    rvq.set_num_codebooks(levels // 2)
    assert torch.equal(rvq.encode(tensors['latents']), tensors['codes_half'])


# Quantizing


def test_decode_equals_the_latents_of_forward_exactly():
    rvq, values = quantizer(), latents()
    rvq(values, 75.0)
    result = rvq.eval()(values, 75.0)
    assert torch.equal(rvq.decode(result.codes), result.latents)
    assert torch.equal(rvq.encode(values), result.codes)
    before = {name: value.clone() for name, value in rvq.state_dict().items()}
    result = rvq.train()(values, 75.0)
    rvq.load_state_dict(before)
    # In training mode, too, codes and latents belong to the entries before the update.
    assert torch.equal(rvq.decode(result.codes), result.latents)


def test_straight_through_gradient():
    values = latents().requires_grad_()
    result = quantizer()(values, 75.0)
    weights = latents(seed=1)
    (grad,) = torch.autograd.grad((result.latents * weights).sum(), values, retain_graph=True)
    assert torch.equal(grad, weights)


def test_rotation_changes_the_gradient_alone():
    plain, rotating = quantizer(), quantizer(gradient='rotation')
    values = latents().requires_grad_()
    weights = latents(seed=1)
    for _ in range(3):
        expected, found = plain(values, 75.0), rotating(values, 75.0)
    assert torch.equal(found.latents, expected.latents)
    for name, value in plain.state_dict().items():
        assert torch.equal(rotating.state_dict()[name], value)
    (grad,) = torch.autograd.grad((found.latents * weights).sum(), values)
    rotated = pass_gradient(found.latents.detach(), values, 'rotation')
    assert torch.equal(grad, torch.autograd.grad((rotated * weights).sum(), values)[0])
    # rotating keeps lengths; rescaling multiplies them by those of the vectors
    scale = found.latents.norm(dim=1) / values.norm(dim=1)
    torch.testing.assert_close(grad.norm(dim=1), scale * weights.norm(dim=1))
    (ours,), (theirs,) = (
        torch.autograd.grad(result.losses['commitment'], values) for result in (found, expected)
    )
    assert torch.equal(ours, theirs)


def test_commitment_loss_is_the_mean_over_levels_with_a_gradient_for_the_latents():
    rvq = quantizer(kmeans_init=False, n_q=3)
    embed = rvq.codebooks.embed.clone()
    values = latents().requires_grad_()
    result = rvq(values, 75.0)
    residual = values
    terms = []
    for level in range(3):
        entries = embed[level][result.codes[:, level]].transpose(1, 2)
        terms.append((entries - residual).square().mean())
        residual = residual - entries
    expected = sum(terms) / 3
    torch.testing.assert_close(result.losses['commitment'], expected)
    (grad,) = torch.autograd.grad(result.losses['commitment'], values)
    (expected_grad,) = torch.autograd.grad(expected, values)
    torch.testing.assert_close(grad, expected_grad)


def test_fewer_codebooks():
    rvq, values = quantizer(), latents()
    rvq(values, 75.0)
    rvq.eval()
    codes = rvq.encode(values)
    assert rvq.bandwidth(75.0) == pytest.approx(4 * 5 * 75 / 1000)
    rvq.set_num_codebooks(2)
    result = rvq(values, 75.0)
    assert torch.equal(result.codes, codes[:, :2])
    assert rvq.bandwidth(75.0) == result.bandwidth.item() == pytest.approx(2 * 5 * 75 / 1000)
    assert torch.equal(rvq.decode(codes[:, :2].to(torch.int16)), result.latents)
    assert (rvq.num_codebooks, rvq.total_codebooks, rvq.cardinality, rvq.dimension) == (2, 4, 32, 8)
    assert rvq.encode(values[..., :0]).shape == (4, 2, 0)
    assert rvq.decode(codes[..., :0]).shape == (4, 8, 0)


@pytest.mark.parametrize('mode', [True, False])
def test_float32_under_autocast(mode):
    values = latents()
    plain, cast = quantizer(), quantizer()
    for rvq in (plain, cast):
        rvq(values, 75.0)
        rvq.train(mode)
    expected = plain(values, 75.0)
    with torch.autocast('cpu', torch.bfloat16):
        found = cast(values, 75.0)
        codes = cast.encode(values)
    assert found.latents.dtype == found.losses['commitment'].dtype == torch.float32
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.losses['commitment'], expected.losses['commitment'])
    assert torch.equal(codes, plain.encode(values))
    for name, value in plain.state_dict().items():
        assert torch.equal(cast.state_dict()[name], value)
    assert cast(values.bfloat16(), 75.0).latents.dtype == torch.float32


def test_training_never_synchronizes_with_the_device():
    class Reads(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += func.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.nonzero,
            )
            return func(*args, **(kwargs or {}))

    rvq, values = quantizer(), latents()
    with Reads() as reads:
        rvq(values, 75.0)
    assert reads.number > 0, 'the first batch must read `inited`'
    with Reads() as reads:
        rvq(values, 75.0)
    assert reads.number == 0


# Quantizer dropout and resuming


def test_dropout_draws_every_number_of_codebooks_equally_often():
    rvq = quantizer(q_dropout=True, dimension=1, bins=2, kmeans_init=False)
    values = latents(batch=1, dimension=1, frames=2)
    results = [rvq(values, 75.0) for _ in range(400)]
    drawn = torch.tensor([result.codes.shape[1] for result in results])
    counts = drawn.bincount(minlength=5)
    assert counts[0] == 0
    chi_squared = ((counts[1:] - 100).square() / 100).sum()
    assert chi_squared < 16.3  # 3 degrees of freedom, 0.1 %
    assert all(
        result.bandwidth.item() == pytest.approx(n * 0.075)
        for result, n in zip(results, drawn.tolist())
    )
    other = quantizer(q_dropout=True, dimension=1, bins=2, kmeans_init=False, seed=1)
    assert [other(values, 75.0).codes.shape[1] for _ in range(50)] != drawn[:50].tolist()
    rvq.set_num_codebooks(2)
    assert {rvq(values, 75.0).codes.shape[1] for _ in range(30)} == {1, 2}
    rvq.eval()
    assert {rvq(values, 75.0).codes.shape[1] for _ in range(5)} == {2}


def test_metrics_of_each_codebook_and_their_means():
    rvq = quantizer(n_q=4, decay=0.8)
    metrics = [rvq(latents(seed=seed) + 0.3 * seed, 75.0).metrics for seed in range(8)][-1]
    stats = rvq.codebook_stats()
    for name, mean in [
        ('usage', 'codebook_usage'),
        ('perplexity', 'codebook_perplexity'),
        ('dead', 'dead_codes'),
        ('revived', 'revived_codes'),
    ]:
        assert torch.equal(metrics[name], stats[name])
        assert metrics[mean] == metrics[name].mean()
    assert metrics['codebook_usage_min'] == metrics['usage'].min()
    assert len(metrics['usage'].unique()) > 1
    rvq.set_num_codebooks(2)
    assert torch.equal(rvq.eval()(latents(), 75.0).metrics['perplexity'], stats['perplexity'][:2])


def test_revived_is_the_fraction_replaced_in_an_update():
    rvq = quantizer(n_q=3, q_dropout=True, decay=0.5)
    total = torch.zeros(3)
    books = rvq.codebooks
    for seed in range(12):
        before = books.embed_avg.clone()
        values = latents(seed=seed) + 0.3 * seed
        result = rvq(values, 75.0)
        if seed > 0:  # in the first update, k-means moves all entries
            vectors = rvq._to_vectors(values)
            distances = (books.embed[0][:, None] - vectors).abs().amax(-1).min(-1).values
            is_vector = distances < 1e-5
            replaced = is_vector & (books.embed_avg[0] != before[0]).any(-1)
            assert result.metrics['revived'][0] == replaced.float().mean()
        total += result.metrics['revived']
    assert total.min() > 0
    assert rvq.eval()(latents(seed=11), 75.0).metrics['revived'].tolist() == [0] * 3


def test_dropped_codebooks_learn_from_every_batch():
    dropping = quantizer(q_dropout=True)
    whole = quantizer()
    drawn = []
    for seed in range(8):
        values = latents(seed=seed)
        found, expected = dropping(values, 75.0), whole(values, 75.0)
        n = found.codes.shape[1]
        drawn.append(n)
        assert torch.equal(found.codes, expected.codes[:, :n])
        assert found.bandwidth == pytest.approx(n * 5 * 75 / 1000)
        for name, value in whole.state_dict().items():
            assert torch.equal(dropping.state_dict()[name], value), name
    assert len(set(drawn)) > 2


def test_resuming_is_exact():
    def train(rvq, first, last):
        results = [rvq(latents(seed=seed) + 0.3 * seed, 75.0) for seed in range(first, last)]
        return [
            (result.latents, result.codes, result.losses['commitment'], *result.metrics.values())
            for result in results
        ]

    settings = {'q_dropout': True, 'decay': 0.8}
    whole = quantizer(**settings)
    expected = train(whole, 0, 12)
    assert whole.codebooks.updates == 12
    interrupted = quantizer(**settings)
    train(interrupted, 0, 6)
    resumed = quantizer(**settings)
    resumed.load_state_dict(
        {name: value.clone() for name, value in interrupted.state_dict().items()}
    )
    found = train(resumed, 6, 12)
    assert any(result[-1] > 0 for result in expected[6:]), 'the case must have dead codes'
    for ours, theirs in zip(found, expected[6:]):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# Errors


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'dimension': 0}, 'dimension=0'),
        ({'n_q': 0}, 'n_q=0'),
        ({'bins': 0}, 'bins=0'),
        ({'decay': 1.0}, r'decay=1.0: must be in \[0, 1\)'),
        ({'decay': -0.1}, r'decay=-0.1'),
        ({'kmeans_iters': 0}, 'kmeans_iters=0'),
        ({'threshold_ema_dead_code': -1}, 'threshold_ema_dead_code=-1'),
        ({'threshold_ema_dead_code': 20}, r'threshold_ema_dead_code=20: must be in \[0, 20\)'),
        ({'gradient': 'gumbel'}, 'gradient=gumbel: expected one of straight_through, rotation'),
        ({'n_q': 0, 'bins': -3}, 'n_q=0.*; bins=-3'),
    ],
)
def test_arguments_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ResidualVectorQuantizer(**settings)


def test_unsuitable_inputs_are_refused():
    rvq = quantizer()
    for shape in [(4, 7, 50), (8, 50), (1, 4, 8, 50)]:
        for method in (rvq.encode, lambda values: rvq(values, 75.0)):
            with pytest.raises(ValueError, match='dimension=8'):
                method(torch.zeros(shape))
    with pytest.raises(ValueError, match='floating point'):
        rvq.encode(torch.zeros(4, 8, 50, dtype=torch.int64))
    with pytest.raises(ValueError, match='at least one item and one frame'):
        rvq(torch.zeros(4, 8, 0), 75.0)
    with pytest.raises(ValueError, match='K from 1 to 4'):
        rvq.decode(torch.zeros(4, 5, 50, dtype=torch.int64))
    with pytest.raises(ValueError, match='expected 0 to 31'):
        rvq.decode(torch.full((1, 1, 3), 32))
    for number in (0, 5):
        with pytest.raises(ValueError, match=f'cannot use {number} codebooks: .* can use 1 to 4'):
            rvq.set_num_codebooks(number)
    assert rvq.num_codebooks == 4


def test_ties_are_told_from_differences():
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(dimension=8, n_q=2, bins=5)
    embed = quantizer.codebooks.embed
    embed[0, 1] = embed[0, 0] + 1e-7  # nearly the same entry twice
    latents = embed[0, [0, 2]].t()[None] + 0.1 * torch.randn(1, 8, 2)
    codes = torch.tensor([[[0, 2], [3, 3]]])
    tied = torch.tensor([[[1, 2], [0, 3]]])  # and then another code at the next level
    assert quantizer.rounding_ties(latents, codes, tied) < 1
    assert quantizer.rounding_ties(latents, codes, torch.tensor([[[0, 4], [3, 3]]])) > 1000
    assert quantizer.rounding_ties(latents, codes, torch.tensor([[[9, 2], [3, 3]]])) == float('inf')
    between = (embed[1, 3] + embed[1, 0]) / 2  # in the middle of two entries that are far apart
    latents = (embed[0, 0] + between)[None, :, None]
    assert quantizer.rounding_ties(latents, codes[..., :1], torch.tensor([[[0], [0]]])) < 1
    latents[0, 0, 0] = torch.nan  # proves nothing
    ties = quantizer.rounding_ties(latents, codes[..., :1], torch.tensor([[[0], [0]]]))
    assert ties == float('inf')
