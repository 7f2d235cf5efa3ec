import functools
from itertools import pairwise

import pytest
import torch

from audiocodec.quantization import ResidualVectorQuantizer, codebook


def latents(batch=4, dimension=8, frames=50, seed=0, scale=1.0):
    return scale * torch.randn(
        batch, dimension, frames, generator=torch.Generator().manual_seed(seed)
    )


def quantizer(dimension=8, n_q=4, bins=32, **kwargs):
    return ResidualVectorQuantizer(dimension, n_q=n_q, bins=bins, **kwargs).train()


def residuals_db(quantizer, values):
    """Return the mean square of the residuals after 0, 1, ... codebooks, in dB."""
    codes = quantizer.encode(values)
    decoded = [quantizer.decode(codes[:, :n]) for n in range(1, codes.shape[1] + 1)]
    return [
        10 * (values - part).square().mean().log10().item()
        for part in [torch.zeros_like(values), *decoded]
    ]


# Initialization


def test_residuals_decrease_with_each_codebook_after_kmeans():
    rvq = quantizer(n_q=6, kmeans_iters=50)
    rvq(latents(frames=200), 75.0)
    for values in (latents(frames=200), latents(frames=200, seed=1)):
        levels = residuals_db(rvq.eval(), values)
        assert all(after < before - 0.5 for before, after in pairwise(levels))


def test_codebooks_made_from_few_vectors_fit_new_data():
    # Three vectors per entry: the plain residuals of the training batch would vanish within a few
    # levels.
    rvq = quantizer(dimension=16, n_q=8, bins=64, kmeans_iters=50)
    rvq(latents(dimension=16, frames=48), 75.0)
    levels = residuals_db(rvq.eval(), latents(dimension=16, frames=500, seed=1))
    assert all(after < before - 0.3 for before, after in pairwise(levels))
    assert levels[0] - levels[-1] > 5


def test_initially_no_level_increases_the_error():
    rvq = quantizer()
    with torch.no_grad():
        rvq.codebooks.initialize(latents().transpose(1, 2).reshape(-1, 8))
    found = rvq.codebooks.encode(
        torch.randn(1000, 8, generator=torch.Generator().manual_seed(9)), 4
    )
    assert (rvq.codebooks.embed[1:].square().sum(-1).min(-1).values == 0).all()
    assert all(after <= before for before, after in pairwise(found.errors))


def test_codes_with_other_functions_for_the_distances():
    rvq = quantizer()
    rvq(latents(), 75.0)
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(9))
    books = rvq.codebooks
    expected = books.encode(vectors, 3).codes
    assert torch.equal(books.codes(vectors, 3), expected)
    calls = []

    def distances(x, entries):
        calls.append(len(x))
        return torch.cdist(x, entries)

    books.distances = [functools.partial(distances, entries=entries) for entries in books.embed]
    assert torch.equal(books.codes(vectors, 3), expected)
    assert calls == [50, 50, 50]


def test_every_codebook_is_initialized_on_the_first_batch_with_dropout():
    for seed in range(20):
        rvq = quantizer(q_dropout=True, seed=seed)
        if rvq(latents(), 75.0).codes.shape[1] == 1:
            break
    else:
        pytest.fail('no seed drew one codebook')
    assert rvq.codebooks.inited.tolist() == [1, 1, 1, 1]
    levels = residuals_db(rvq.eval(), latents())
    assert all(after < before for before, after in pairwise(levels))


def test_initialization_is_reproducible_and_independent_of_the_global_generator():
    states = []
    for global_seed, seed in [(0, 0), (1, 0), (0, 1)]:
        torch.manual_seed(global_seed)
        rvq = quantizer(seed=seed)
        random = rvq.codebooks.embed.clone()
        rvq(latents(), 75.0)
        states.append((random, rvq.codebooks.embed))
    for first, repeated, other in zip(*states):
        assert torch.equal(first, repeated)
        assert not torch.allclose(first, other)


def test_initialization_runs_on_a_sample_of_a_large_batch(monkeypatch):
    monkeypatch.setattr(codebook, 'KMEANS_SAMPLES_PER_ENTRY', 5)
    seen = []
    kmeans = codebook.kmeans

    def spy(samples, *args):
        seen.append(len(samples))
        return kmeans(samples, *args)

    monkeypatch.setattr(codebook, 'kmeans', spy)
    rvq = quantizer(threshold_ema_dead_code=0, decay=0)
    with torch.no_grad():
        rvq.codebooks.initialize(latents(frames=100).transpose(1, 2).reshape(-1, 8))
    assert seen == [5 * 32] * 4
    # Cluster sizes are those of the whole batch.
    assert rvq.codebooks.cluster_size.sum(-1) == pytest.approx([400] * 4, rel=0.1)
    torch.testing.assert_close(
        rvq.codebooks.embed_avg, rvq.codebooks.embed * rvq.codebooks.cluster_size[..., None]
    )


def test_initialization_from_fewer_vectors_than_entries():
    rvq = quantizer(bins=256, kmeans_iters=50)
    rvq(latents(batch=1, frames=100), 75.0)
    assert rvq.codebooks.embed.isfinite().all()
    levels = residuals_db(rvq.eval(), latents(frames=500, seed=1))
    assert all(after < before for before, after in pairwise(levels))
    one = quantizer()
    one(latents(batch=1, frames=1), 75.0)
    assert one.codebooks.embed.isfinite().all()
    silent = quantizer()
    silent(torch.zeros(2, 8, 50), 75.0)
    assert silent.codebooks.embed.isfinite().all()


def test_evaluation_before_training_initializes_nothing():
    rvq = quantizer().eval()
    before = {name: value.clone() for name, value in rvq.state_dict().items()}
    result = rvq(latents(), 75.0)
    assert rvq.codebooks.inited.tolist() == [0, 0, 0, 0]
    assert all(torch.equal(value, before[name]) for name, value in rvq.state_dict().items())
    assert torch.equal(rvq.decode(rvq.encode(latents())), result.latents)
    assert result.codes.unique().numel() > 1


def test_only_missing_levels_are_initialized():
    source, rvq = quantizer(n_q=3), quantizer(n_q=3, seed=1, decay=0.999)
    source(latents(), 75.0)
    state = source.state_dict()
    state['codebooks.inited'] = torch.tensor([1.0, 0.0, 0.0])
    rvq.load_state_dict(state)
    with torch.no_grad():
        rvq.codebooks.initialize(latents().transpose(1, 2).reshape(-1, 8))
    assert torch.equal(rvq.codebooks.embed[0], source.codebooks.embed[0])
    assert not torch.allclose(rvq.codebooks.embed[1], source.codebooks.embed[1])
    assert rvq.codebooks.inited.tolist() == [1, 1, 1]
    levels = residuals_db(rvq.eval(), latents())
    assert all(after < before - 0.5 for before, after in pairwise(levels))


def test_without_kmeans_the_random_entries_learn():
    rvq = quantizer(kmeans_init=False, decay=0.9)
    assert rvq.codebooks.inited.tolist() == [1, 1, 1, 1]
    before = residuals_db(rvq.eval(), latents())
    for seed in range(30):
        rvq.train()(latents(seed=seed), 75.0)
    after = residuals_db(rvq.eval(), latents())
    assert after[-1] < before[-1] - 3


def test_codebooks_without_statistics_cannot_be_trained():
    rvq = quantizer()
    rvq(latents(), 75.0)
    rvq.drop_statistics()
    assert rvq.eval().encode(latents()).shape == (4, 4, 50)
    assert rvq.codebook_stats() == {}
    with pytest.raises(ValueError, match='codebooks without statistics cannot be trained'):
        rvq.train()(latents(), 75.0)


# Learning


def test_unused_levels_are_not_changed():
    rvq = quantizer()
    rvq(latents(), 75.0)
    rvq.set_num_codebooks(2)
    before = {name: value.clone() for name, value in rvq.codebooks.named_buffers()}
    rvq(latents(seed=1), 75.0)
    for name in ('embed', 'embed_avg', 'cluster_size', 'usage'):
        after = getattr(rvq.codebooks, name)
        assert torch.equal(after[2:], before[name][2:])
        assert not torch.equal(after[:2], before[name][:2])


@pytest.mark.parametrize(
    ('decay', 'weights'),
    [
        (0.99, {0: 1 / 5, 1: 1 / 5.1, 200: 1 / 25, 940: 1 / 99, 960: 0.01, 10**6: 0.01}),
        (0.5, {0: 0.5, 1000: 0.5}),
        (0.9, {0: 0.2, 40: 1 / 9, 60: 0.1}),
    ],
)
def test_window_of_the_averages_starts_short(decay, weights):
    for updates, weight in weights.items():
        rvq = quantizer(decay=decay, threshold_ema_dead_code=0)
        rvq(latents(), 75.0)
        rvq.codebooks.updates.fill_(updates)
        rvq.load_state_dict({name: value.clone() for name, value in rvq.state_dict().items()})
        size = rvq.codebooks.cluster_size.clone()
        average = rvq.codebooks.embed_avg.clone()
        embed = rvq.codebooks.embed.clone()
        values = latents(seed=1)
        codes = rvq(values, 75.0).codes[:, 0].flatten()
        counts = codes.bincount(minlength=32).float()
        sums = torch.zeros(32, 8).index_add_(0, codes, values.transpose(1, 2).reshape(-1, 8))
        torch.testing.assert_close(
            rvq.codebooks.cluster_size[0], size[0] + weight * (counts - size[0])
        )
        torch.testing.assert_close(
            rvq.codebooks.embed_avg[0], average[0] + weight * (sums - average[0])
        )
        assert not torch.equal(rvq.codebooks.embed, embed)


def test_codebooks_of_other_programs_start_with_the_final_window():
    rvq = quantizer(threshold_ema_dead_code=0)
    rvq(latents(), 75.0)
    foreign = {
        name: value
        for name, value in rvq.state_dict().items()
        if name.split('.')[-1] in ('embed', 'embed_avg', 'cluster_size', 'inited')
    }
    fresh = quantizer(threshold_ema_dead_code=0)
    settled = quantizer(threshold_ema_dead_code=0)
    fresh.load_state_dict(dict(foreign))
    settled.load_state_dict(rvq.state_dict())
    settled.settle_statistics()
    for other in (fresh, settled):
        size = other.codebooks.cluster_size.sum().item()
        other(latents(batch=8, seed=1), 75.0)
        assert other.codebooks.cluster_size.sum().item() == pytest.approx(
            0.99 * size + 0.01 * 4 * 400, rel=1e-5
        )


def drifting(rvq, updates, speed):
    """Train on latents that drift by `speed` per update; return held-out latents at the end."""
    for update in range(updates):
        values = latents(batch=8, seed=update) + speed * update
        rvq(values, 75.0)
    return latents(batch=8, seed=-1) + speed * updates


@pytest.mark.parametrize('dropout', [False, True])
def test_codebooks_follow_drifting_latents(dropout):
    rvq = quantizer(n_q=6, bins=64, q_dropout=dropout)
    held_out = drifting(rvq, 60, 0.05)
    codes = rvq.eval().encode(held_out)
    used = [len(codes[:, level].unique()) for level in range(6)]
    assert min(used) > 40, 'held-out latents use most of the 64 entries'
    assert all(after < before for before, after in pairwise(residuals_db(rvq, held_out)))


def test_usage_covers_recent_updates_only():
    rvq = quantizer(bins=64, threshold_ema_dead_code=0, decay=0.999)
    rvq(latents(), 75.0)
    rvq.codebooks.updates.fill_(codebook.UPDATES_WHEN_UNKNOWN)
    rvq.load_state_dict({name: value.clone() for name, value in rvq.state_dict().items()})
    for seed in range(40):
        result = rvq(latents(seed=seed) + 20, 75.0)
    used = len(result.codes[:, 0].unique()) / 64
    assert used < 0.3
    assert result.metrics['usage'][0] <= 1.5 * used


def test_non_finite_vectors_do_not_reach_the_codebooks():
    rvq = quantizer(decay=0.5)
    rvq(latents(), 75.0)
    values = latents(seed=1)
    values[0, 3, 7] = float('nan')
    values[1, 0, 0] = float('inf')
    values[2, 0, 0] = 1e30  # finite, but its square is not
    size = rvq.codebooks.cluster_size[0].sum().item()
    result = rvq(values, 75.0)
    assert not result.losses['commitment'].isfinite()
    assert not result.latents[0, 3, 7].isfinite()
    assert all(value.isfinite().all() for value in rvq.state_dict().values())
    # The other vectors still update the codebooks.
    assert rvq.codebooks.cluster_size[0].sum() == pytest.approx(0.5 * size + 0.5 * 197, rel=1e-5)


def test_a_non_finite_first_batch_initializes_nothing():
    rvq, clean = quantizer(), quantizer()
    rvq(torch.full((4, 8, 50), float('nan')), 75.0)
    assert rvq.codebooks.inited.tolist() == [0, 0, 0, 0]
    assert rvq.codebooks.embed.isfinite().all()
    rvq(latents(), 75.0)
    clean(latents(), 75.0)
    torch.testing.assert_close(rvq.codebooks.embed, clean.codebooks.embed)


def with_dead_entries(dead, **kwargs):
    """Return a trained quantizer with unused, far away entries `dead` at every level."""
    rvq = quantizer(**kwargs)
    rvq(latents(), 75.0)
    books = rvq.codebooks
    books.embed[:, dead] = 1e3
    books.cluster_size[:, dead] = 1e-3
    books.embed_avg[:, dead] = 1e3 * 1e-3
    return rvq


def test_a_dead_code_is_moved_to_a_vector_of_the_batch_and_is_used():
    dead = [3, 17]
    rvq = with_dead_entries(dead)
    books = rvq.codebooks
    old = books.embed.clone()
    values = latents(seed=1)
    codes = rvq(values, 75.0).codes
    assert not any((codes == entry).any() for entry in dead)
    torch.testing.assert_close(books.dead, torch.full((4,), 2 / 32))

    residual = values.transpose(1, 2).reshape(-1, 8)
    for level in range(4):
        for entry in dead:
            assert (books.embed[level, entry] - residual).abs().amax(1).min() < 1e-5
        residual = residual - old[level][codes[:, level].flatten()]
    sizes = books.cluster_size
    torch.testing.assert_close(
        books.embed_avg[:, dead], books.embed[:, dead] * sizes[:, dead, None]
    )
    alive = [entry for entry in range(32) if entry not in dead]
    mean = (sizes[:, alive].sum(-1) + 0.99 * 1e-3 * 2) / 32
    torch.testing.assert_close(sizes[:, dead], (0.3 * mean[:, None]).expand(4, 2))

    # If the next update moved the code back, it would be far away from all vectors again.
    moved = books.embed[:, dead].clone()
    for _ in range(3):
        codes = rvq(values, 75.0).codes
        for level, entry in [(0, 3), (0, 17)]:
            assert (codes[:, level] == entry).any()
    assert (books.embed[:, dead] - moved).norm(dim=-1).max() < moved.norm(dim=-1).max()
    assert books.dead.max() == 0


def test_a_collapsed_codebook_recovers_in_one_update():
    rvq = with_dead_entries(list(range(1, 32)))
    assert rvq(latents(seed=1), 75.0).codes.unique().tolist() == [0]
    assert rvq.codebooks.dead.tolist() == [31 / 32] * 4
    assert rvq(latents(seed=2), 75.0).codes[:, 0].unique().numel() > 25


def test_with_threshold_0_dead_codes_are_reported_but_not_replaced():
    rvq = with_dead_entries([5], threshold_ema_dead_code=0)
    rvq(latents(seed=1), 75.0)
    assert (rvq.codebooks.embed[:, 5] > 900).all()
    stats = rvq.codebook_stats()
    torch.testing.assert_close(stats['dead'], torch.full((4,), 1 / 32))
    assert stats['revived'].tolist() == [0] * 4


@pytest.mark.parametrize(('threshold', 'dead'), [(1.9, False), (2.1, True)])
@pytest.mark.parametrize('repeats', [1, 4])
def test_threshold_is_a_fraction_of_the_mean_for_any_batch_size(threshold, dead, repeats):
    rvq = quantizer(n_q=1, bins=4, kmeans_init=False, decay=0.5, threshold_ema_dead_code=threshold)
    # One entry takes 1 of 40 vectors: a tenth of the average entry's 10.
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).repeat(1, 4)
    rvq.codebooks.embed[0] = corners
    counts = torch.tensor([13.0, 13.0, 13.0, 1.0])
    rvq.codebooks.cluster_size[0] = counts * repeats
    rvq.codebooks.embed_avg[0] = corners * counts[:, None] * repeats
    values = corners[torch.arange(4).repeat_interleave(counts.long())].repeat(repeats, 1)
    rvq(values.t()[None], 75.0)
    assert rvq.codebooks.dead.item() == (0.25 if dead else 0)


def test_usage_excludes_codes_that_are_replaced_repeatedly():
    # The latents take only three values: one entry at each is used, the others keep being replaced.
    rvq = quantizer(n_q=1, bins=32, decay=0.5, kmeans_init=False)
    places = latents(batch=1, frames=3)
    for _ in range(40):
        result = rvq(places.repeat(4, 1, 10), 75.0)
    stats = rvq.codebook_stats()
    sizes = rvq.codebooks.cluster_size
    assert (sizes > 0.1 * sizes.mean()).all(), 'cluster sizes do not tell them from used codes'
    assert 3 / 32 <= stats['usage'].item() < 0.5
    assert 3 <= stats['perplexity'].item() < 10
    assert (
        result.metrics['codebook_usage']
        == result.metrics['codebook_usage_min']
        == stats['usage'][0]
    )
    assert result.metrics['codebook_perplexity'] == stats['perplexity'][0]
