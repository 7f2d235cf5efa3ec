import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer, codebook

PARITY = Path(__file__).parents[1] / 'data' / 'parity'


def latents(batch=4, dimension=8, frames=50, seed=0, scale=1.0):
    return scale * torch.randn(batch, dimension, frames, generator=torch.Generator().manual_seed(seed))


def quantizer(dimension=8, n_q=4, bins=32, **kwargs):
    return ResidualVectorQuantizer(dimension, n_q=n_q, bins=bins, **kwargs).train()


def residuals_db(quantizer, values):
    """Mean square of what remains after 0, 1, ... codebooks, in dB."""
    codes = quantizer.encode(values)
    decoded = [quantizer.decode(codes[:, :n]) for n in range(1, codes.shape[1] + 1)]
    return [10 * (values - part).square().mean().log10().item() for part in [torch.zeros_like(values), *decoded]]


def foreign_state(tensors, prefix, levels):
    return {
        f'codebooks.{name}': torch.stack([tensors[f'{prefix}vq.layers.{i}._codebook.{name}'] for i in range(levels)])
        for name in ('embed', 'embed_avg', 'cluster_size')
    } | {'codebooks.inited': torch.ones(levels)}


# Parity with AudioCraft


def test_training_update_equals_audiocraft():
    tensors = load_file(PARITY / 'training_parts.safetensors')
    settings = json.loads((PARITY / 'training_parts.json').read_text())['rvq']
    rvq = ResidualVectorQuantizer(**settings).train()
    rvq.load_state_dict(foreign_state(tensors, 'rvq.before.', rvq.total_codebooks))
    values = tensors['rvq.latents'].requires_grad_()

    result = rvq(values, frame_rate=50)
    (result.latents.square().mean() + result.commitment_loss).backward()

    assert torch.equal(result.codes, tensors['rvq.codes'])
    for found, name in [
        (result.latents, 'quantized'),
        (result.commitment_loss[None], 'commitment_loss'),
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
    levels, (bins, dimension) = tensors['codes'].shape[1], state['quantizer.vq.layers.0._codebook.embed'].shape
    rvq = ResidualVectorQuantizer(dimension, n_q=levels, bins=bins).eval()
    rvq.load_state_dict(foreign_state(state, 'quantizer.', levels))
    assert torch.equal(rvq.encode(tensors['latents']), tensors['codes'])
    assert torch.equal(rvq(tensors['latents'], 75.0).codes, tensors['codes'])
    rvq.set_num_codebooks(levels // 2)
    assert torch.equal(rvq.encode(tensors['latents']), tensors['codes_half'])


# Quantizing


def test_decode_gives_exactly_the_latents_of_forward():
    rvq, values = quantizer(), latents()
    rvq(values, 75.0)
    for mode in (False, True):
        result = rvq.train(mode)(values, 75.0) if not mode else None
        if result is not None:
            assert torch.equal(rvq.decode(result.codes), result.latents)
            assert torch.equal(rvq.encode(values), result.codes)
    before = {name: value.clone() for name, value in rvq.state_dict().items()}
    result = rvq.train()(values, 75.0)
    rvq.load_state_dict(before)
    assert torch.equal(rvq.decode(result.codes), result.latents), 'codes and latents come from before the update'


def test_gradient_passes_straight_through():
    values = latents().requires_grad_()
    result = quantizer()(values, 75.0)
    weights = latents(seed=1)
    (grad,) = torch.autograd.grad((result.latents * weights).sum(), values, retain_graph=True)
    assert torch.equal(grad, weights)


def test_commitment_loss_is_the_mean_over_levels_and_pulls_the_latents_to_the_entries():
    rvq = quantizer(kmeans_init=False, n_q=3)
    embed = rvq.codebooks.embed.clone()
    values = latents().requires_grad_()
    result = rvq(values, 75.0)
    residual, terms = values, []
    for level in range(3):
        entries = embed[level][result.codes[:, level]].transpose(1, 2)
        terms.append((entries - residual).square().mean())
        residual = residual - entries
    expected = sum(terms) / 3
    torch.testing.assert_close(result.commitment_loss, expected)
    (grad,) = torch.autograd.grad(result.commitment_loss, values)
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
    assert found.latents.dtype == found.commitment_loss.dtype == torch.float32
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.commitment_loss, expected.commitment_loss)
    assert torch.equal(codes, plain.encode(values))
    for name, value in plain.state_dict().items():
        assert torch.equal(cast.state_dict()[name], value)
    assert cast(values.bfloat16(), 75.0).latents.dtype == torch.float32


def test_training_never_waits_for_the_device():
    class Reads(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
            return func(*args, **(kwargs or {}))

    rvq, values = quantizer(), latents()
    with Reads() as reads:
        rvq(values, 75.0)
    assert reads.number > 0, 'the first batch reads `inited`'
    with Reads() as reads:
        rvq(values, 75.0)
    assert reads.number == 0


# Initialisation


def test_residuals_fall_with_each_codebook_after_kmeans():
    rvq = quantizer(n_q=6, kmeans_iters=50)
    rvq(latents(frames=200), 75.0)
    for values in (latents(frames=200), latents(frames=200, seed=1)):
        levels = residuals_db(rvq.eval(), values)
        assert all(after < before - 0.5 for before, after in zip(levels, levels[1:]))


def test_codebooks_fit_new_data_though_few_vectors_made_them():
    # Three vectors for each entry: plain residuals of the training batch would vanish within a few levels.
    rvq = quantizer(dimension=16, n_q=8, bins=64, kmeans_iters=50)
    rvq(latents(dimension=16, frames=48), 75.0)
    levels = residuals_db(rvq.eval(), latents(dimension=16, frames=500, seed=1))
    assert all(after < before - 0.3 for before, after in zip(levels, levels[1:]))
    assert levels[0] - levels[-1] > 5


def test_no_level_makes_a_vector_worse_at_first():
    rvq = quantizer()
    with torch.no_grad():
        rvq.codebooks.initialise(latents().transpose(1, 2).reshape(-1, 8))
    found = rvq.codebooks.encode(torch.randn(1000, 8, generator=torch.Generator().manual_seed(9)), 4)
    assert (rvq.codebooks.embed[1:].square().sum(-1).min(-1).values == 0).all()
    assert all(after <= before for before, after in zip(found.errors, found.errors[1:]))


def test_every_codebook_is_initialised_on_the_first_batch_whatever_is_drawn():
    for seed in range(20):
        rvq = quantizer(q_dropout=True, seed=seed)
        if rvq(latents(), 75.0).codes.shape[1] == 1:
            break
    else:
        pytest.fail('no seed drew one codebook')
    assert rvq.codebooks.inited.tolist() == [1, 1, 1, 1]
    levels = residuals_db(rvq.eval(), latents())
    assert all(after < before for before, after in zip(levels, levels[1:]))


def test_initialisation_is_repeatable_and_independent_of_the_global_generator():
    states = []
    for global_seed, seed in [(0, 0), (1, 0), (0, 1)]:
        torch.manual_seed(global_seed)
        rvq = quantizer(seed=seed)
        random = rvq.codebooks.embed.clone()
        rvq(latents(), 75.0)
        states.append((random, rvq.codebooks.embed))
    for first, again, other in zip(*states):
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)


def test_initialisation_sees_a_sample_of_a_large_batch(monkeypatch):
    monkeypatch.setattr(codebook, 'KMEANS_SAMPLES_PER_ENTRY', 5)
    seen = []
    kmeans = codebook.kmeans
    monkeypatch.setattr(codebook, 'kmeans', lambda samples, *args: (seen.append(len(samples)), kmeans(samples, *args))[1])
    rvq = quantizer(threshold_ema_dead_code=0, decay=0)
    with torch.no_grad():
        rvq.codebooks.initialise(latents(frames=100).transpose(1, 2).reshape(-1, 8))
    assert seen == [5 * 32] * 4
    # Cluster sizes are those of the whole batch.
    assert rvq.codebooks.cluster_size.sum(-1) == pytest.approx([400] * 4, rel=0.1)
    torch.testing.assert_close(rvq.codebooks.embed_avg, rvq.codebooks.embed * rvq.codebooks.cluster_size[..., None])


def test_initialisation_from_fewer_vectors_than_entries():
    rvq = quantizer(bins=256, kmeans_iters=50)
    rvq(latents(batch=1, frames=100), 75.0)
    assert rvq.codebooks.embed.isfinite().all()
    levels = residuals_db(rvq.eval(), latents(frames=500, seed=1))
    assert all(after < before for before, after in zip(levels, levels[1:]))
    one = quantizer()
    one(latents(batch=1, frames=1), 75.0)
    assert one.codebooks.embed.isfinite().all()
    silent = quantizer()
    silent(torch.zeros(2, 8, 50), 75.0)
    assert silent.codebooks.embed.isfinite().all()


def test_evaluation_before_training_initialises_nothing():
    rvq = quantizer().eval()
    before = {name: value.clone() for name, value in rvq.state_dict().items()}
    result = rvq(latents(), 75.0)
    assert rvq.codebooks.inited.tolist() == [0, 0, 0, 0]
    assert all(torch.equal(value, before[name]) for name, value in rvq.state_dict().items())
    assert torch.equal(rvq.decode(rvq.encode(latents())), result.latents)
    assert result.codes.unique().numel() > 1


def test_only_missing_levels_are_initialised():
    source, rvq = quantizer(n_q=3), quantizer(n_q=3, seed=1, decay=0.999)
    source(latents(), 75.0)
    state = source.state_dict()
    state['codebooks.inited'] = torch.tensor([1.0, 0.0, 0.0])
    rvq.load_state_dict(state)
    with torch.no_grad():
        rvq.codebooks.initialise(latents().transpose(1, 2).reshape(-1, 8))
    assert torch.equal(rvq.codebooks.embed[0], source.codebooks.embed[0])
    assert not torch.allclose(rvq.codebooks.embed[1], source.codebooks.embed[1])
    assert rvq.codebooks.inited.tolist() == [1, 1, 1]
    levels = residuals_db(rvq.eval(), latents())
    assert all(after < before - 0.5 for before, after in zip(levels, levels[1:]))


def test_without_kmeans_the_random_entries_learn():
    rvq = quantizer(kmeans_init=False, decay=0.9)
    assert rvq.codebooks.inited.tolist() == [1, 1, 1, 1]
    before = residuals_db(rvq.eval(), latents())
    for seed in range(30):
        rvq.train()(latents(seed=seed), 75.0)
    after = residuals_db(rvq.eval(), latents())
    assert after[-1] < before[-1] - 3


# Learning


def test_levels_left_out_are_not_touched():
    rvq = quantizer()
    rvq(latents(), 75.0)
    rvq.set_num_codebooks(2)
    before = {name: value.clone() for name, value in rvq.codebooks.named_buffers()}
    rvq(latents(seed=1), 75.0)
    for name in ('embed', 'embed_avg', 'cluster_size', 'usage'):
        after = getattr(rvq.codebooks, name)
        assert torch.equal(after[2:], before[name][2:])
        assert not torch.equal(after[:2], before[name][:2])


def test_vectors_that_are_not_finite_leave_the_codebooks_sound():
    rvq, clean = quantizer(threshold_ema_dead_code=0), quantizer(threshold_ema_dead_code=0)
    for each in (rvq, clean):
        each(latents(), 75.0)
    values = latents(seed=1)
    values[0, 3, 7], values[1, 0, 0], values[2, 0, 0] = float('nan'), float('inf'), 1e30
    result = rvq(values, 75.0)
    assert not result.commitment_loss.isfinite()
    assert not result.latents[0, 3, 7].isfinite()
    assert all(value.isfinite().all() for value in rvq.state_dict().values())
    # The other vectors are learnt from as ever.
    assert rvq.codebooks.cluster_size[0].sum() == pytest.approx(0.99 * 200 + 0.01 * 197, rel=1e-5)


def test_a_first_batch_that_is_not_finite_initialises_nothing():
    rvq, clean = quantizer(), quantizer()
    rvq(torch.full((4, 8, 50), float('nan')), 75.0)
    assert rvq.codebooks.inited.tolist() == [0, 0, 0, 0]
    assert rvq.codebooks.embed.isfinite().all()
    rvq(latents(), 75.0)
    clean(latents(), 75.0)
    torch.testing.assert_close(rvq.codebooks.embed, clean.codebooks.embed)


def with_dead_entries(dead, **kwargs):
    """A trained quantizer in which entries `dead` of every level are far away from everything and unused."""
    rvq = quantizer(**kwargs)
    rvq(latents(), 75.0)
    books = rvq.codebooks
    books.embed[:, dead] = 1e3
    books.cluster_size[:, dead] = 1e-3
    books.embed_avg[:, dead] = 1e3 * 1e-3
    return rvq


def test_a_dead_code_is_put_on_a_vector_of_the_batch_stays_there_and_is_used():
    dead = [3, 17]
    rvq = with_dead_entries(dead)
    books = rvq.codebooks
    old, values = books.embed.clone(), latents(seed=1)
    codes = rvq(values, 75.0).codes
    assert not any((codes == entry).any() for entry in dead)
    torch.testing.assert_close(books.dead, torch.full((4,), 2 / 32))

    residual = values.transpose(1, 2).reshape(-1, 8)
    for level in range(4):
        for entry in dead:
            assert (books.embed[level, entry] - residual).abs().amax(1).min() < 1e-5
        residual = residual - old[level][codes[:, level].flatten()]
    sizes = books.cluster_size
    torch.testing.assert_close(books.embed_avg[:, dead], books.embed[:, dead] * sizes[:, dead, None])
    alive = [entry for entry in range(32) if entry not in dead]
    mean = (sizes[:, alive].sum(-1) + 0.99 * 1e-3 * 2) / 32
    torch.testing.assert_close(sizes[:, dead], (0.3 * mean[:, None]).expand(4, 2))

    # A code that the next update moves back to where it was would be far from everything again.
    put = books.embed[:, dead].clone()
    for _ in range(3):
        codes = rvq(values, 75.0).codes
        for level, entry in [(0, 3), (0, 17)]:
            assert (codes[:, level] == entry).any()
    assert (books.embed[:, dead] - put).norm(dim=-1).max() < put.norm(dim=-1).max()
    assert books.dead.max() == 0


def test_all_but_one_dead_codes_come_back_within_one_update():
    rvq = with_dead_entries(list(range(1, 32)))
    rvq(latents(seed=1), 75.0)
    assert rvq.codebooks.dead.tolist() == [31 / 32] * 4
    codes = rvq(latents(seed=2), 75.0).codes
    for level in range(4):
        assert codes[:, level].unique().numel() > 20


def test_dead_codes_stay_with_threshold_0_and_are_reported():
    rvq = with_dead_entries([5], threshold_ema_dead_code=0)
    rvq(latents(seed=1), 75.0)
    assert (rvq.codebooks.embed[:, 5] > 900).all()
    stats = rvq.codebook_stats()
    torch.testing.assert_close(stats['dead'], torch.full((4,), 1 / 32))
    assert stats['revived'].tolist() == [0] * 4


@pytest.mark.parametrize(('threshold', 'dead'), [(1.9, False), (2.1, True)])
@pytest.mark.parametrize('repeats', [1, 4])
def test_the_threshold_is_a_share_of_the_mean_whatever_the_batch(threshold, dead, repeats):
    rvq = quantizer(n_q=1, bins=4, kmeans_init=False, decay=0.5, threshold_ema_dead_code=threshold)
    # One entry takes 1 of 40 vectors: a tenth of the average entry's 10.
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).repeat(1, 4)
    rvq.codebooks.embed[0] = corners
    share = torch.tensor([13.0, 13.0, 13.0, 1.0])
    rvq.codebooks.cluster_size[0] = share * repeats
    rvq.codebooks.embed_avg[0] = corners * share[:, None] * repeats
    values = corners[torch.arange(4).repeat_interleave(share.long())].repeat(repeats, 1)
    rvq(values.t()[None], 75.0)
    assert rvq.codebooks.dead.item() == (0.25 if dead else 0)


def test_stats_tell_codes_that_are_replaced_again_and_again_from_codes_in_use():
    # Three places only: the other entries die and come back, but are never the first of equals.
    rvq = quantizer(n_q=1, bins=16, decay=0.5, kmeans_init=False)
    places = latents(batch=1, frames=3)
    for _ in range(40):
        result = rvq(places.repeat(4, 1, 10), 75.0)
    stats = rvq.codebook_stats()
    assert stats['usage'].item() == pytest.approx(3 / 16)
    assert stats['perplexity'].item() == pytest.approx(3, rel=1e-3)
    assert result.metrics['codebook_usage'] == result.metrics['codebook_usage_min'] == stats['usage'][0]
    assert result.metrics['codebook_perplexity'] == stats['perplexity'][0]
    assert all(value.shape == () for value in result.metrics.values())


# Quantizer dropout and resuming


def test_dropout_draws_every_number_of_codebooks_equally_often():
    rvq = quantizer(q_dropout=True, dimension=1, bins=2, kmeans_init=False)
    values = latents(batch=1, dimension=1, frames=2)
    results = [rvq(values, 75.0) for _ in range(800)]
    drawn = torch.tensor([result.codes.shape[1] for result in results])
    counts = drawn.bincount(minlength=5)
    assert counts[0] == 0
    assert ((counts[1:] - 200).square() / 200).sum() < 16.3  # chi-squared, 3 degrees of freedom, 0.1 %
    assert all(result.bandwidth.item() == pytest.approx(n * 0.075) for result, n in zip(results, drawn.tolist()))
    other = quantizer(q_dropout=True, dimension=1, bins=2, kmeans_init=False, seed=1)
    assert [other(values, 75.0).codes.shape[1] for _ in range(50)] != drawn[:50].tolist()
    rvq.set_num_codebooks(2)
    assert {rvq(values, 75.0).codes.shape[1] for _ in range(30)} == {1, 2}
    rvq.eval()
    assert {rvq(values, 75.0).codes.shape[1] for _ in range(5)} == {2}


def test_resuming_is_exact():
    def train(rvq, first, last):
        results = [rvq(latents(seed=seed) + 0.3 * seed, 75.0) for seed in range(first, last)]
        return [(result.latents, result.codes, result.commitment_loss, *result.metrics.values()) for result in results]

    settings = {'q_dropout': True, 'decay': 0.8}
    whole = quantizer(**settings)
    expected = train(whole, 0, 12)
    assert whole.codebooks.updates == 12
    interrupted = quantizer(**settings)
    train(interrupted, 0, 6)
    resumed = quantizer(**settings)
    resumed.load_state_dict({name: value.clone() for name, value in interrupted.state_dict().items()})
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
        ({'n_q': 0, 'bins': -3}, 'n_q=0.*; bins=-3'),
    ],
)
def test_arguments_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ResidualVectorQuantizer(**settings)


def test_inputs_that_do_not_fit():
    rvq = quantizer()
    for shape in [(4, 7, 50), (8, 50), (1, 4, 8, 50)]:
        for method in (rvq.encode, lambda values: rvq(values, 75.0)):
            with pytest.raises(ValueError, match='dimension=8'):
                method(torch.zeros(shape))
    with pytest.raises(ValueError, match='floating point'):
        rvq.encode(torch.zeros(4, 8, 50, dtype=torch.int64))
    with pytest.raises(ValueError, match='at least one item and one frame'):
        rvq(torch.zeros(4, 8, 0), 75.0)
    for shape in [(4, 5, 50), (4, 0, 50), (4, 50)]:
        with pytest.raises(ValueError, match='1 to 4 codebooks'):
            rvq.decode(torch.zeros(shape, dtype=torch.int64))
    for code in (-1, 32):
        with pytest.raises(ValueError, match='expected 0 to 31'):
            rvq.decode(torch.full((1, 1, 3), code))
    with pytest.raises(ValueError, match='expected integers'):
        rvq.decode(torch.zeros(1, 1, 3))
    for number in (0, 5):
        with pytest.raises(ValueError, match='1 to 4'):
            rvq.set_num_codebooks(number)
    assert rvq.num_codebooks == 4


def test_no_quantizer_passes_latents_through():
    none = NoQuantizer(8)
    values = latents().requires_grad_()
    result = none(values, 75.0)
    assert result.latents is values
    assert result.codes.shape == (4, 0, 50)
    assert (result.bandwidth, result.commitment_loss) == (0, 0)
    assert none.bandwidth(75.0) == none.num_codebooks == none.total_codebooks == none.cardinality == 0
    assert none.dimension == 8
    for method, argument in [(none.encode, values), (none.decode, result.codes), (none.set_num_codebooks, 2)]:
        with pytest.raises(ValueError, match='continuous autoencoder'):
            method(argument)
    with pytest.raises(ValueError, match='dimension=8'):
        none(torch.zeros(4, 7, 50), 75.0)
