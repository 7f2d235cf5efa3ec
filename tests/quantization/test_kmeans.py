import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from audiocodec.quantization.kmeans import (
    cluster_sums,
    kmeans,
    left_out_residuals,
    nearest,
    spread_indices,
)


def blobs(number, clusters=12, dimension=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 10 * torch.randn(clusters, dimension, generator=generator)
    labels = torch.arange(number) * clusters // number
    return centers[labels] + 0.1 * torch.randn(number, dimension, generator=generator), labels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize('bins', [30, 64, 256])  # no groups, one, several
def test_nearest_equals_brute_force_for_any_chunk_size(bins):
    vectors = torch.randn(101, 7, generator=generator())
    embed = torch.randn(bins, 7, generator=generator(1))
    expected = (vectors[:, None] - embed[None]).square().sum(-1).argmin(1)
    for chunk in (1, 13, 101, 1000, None):
        assert torch.equal(nearest(vectors, embed, chunk=chunk), expected)
    assert nearest(vectors[:0], embed).shape == (0,)


@pytest.mark.parametrize('bins', [30, 64, 256])
def test_ties_go_to_the_lowest_index(bins):
    # Integers, so that distances are exact.
    entries = torch.randint(-8, 8, (10, 7), generator=generator()).float()
    embed = entries.repeat(bins // 10 + 1, 1)[:bins]
    assert torch.equal(nearest(embed, embed), torch.arange(bins) % 10)


def test_excluding_the_nearest_entry_gives_the_second_nearest():
    vectors = torch.randn(101, 7, generator=generator())
    embed = torch.randn(30, 7, generator=generator(1))
    order = (vectors[:, None] - embed[None]).square().sum(-1).argsort(1)
    for chunk in (10, None):
        assert torch.equal(nearest(vectors, embed, exclude=order[:, 0], chunk=chunk), order[:, 1])


def test_cluster_sums_equal_products_with_one_hot_codes():
    vectors = torch.randn(50, 3, generator=generator())
    codes = torch.randint(0, 9, (50,), generator=generator())
    one_hot = torch.nn.functional.one_hot(codes, 9).float()
    counts, sums = cluster_sums(vectors, codes, 9)
    assert torch.equal(counts, one_hot.sum(0))
    torch.testing.assert_close(sums, one_hot.t() @ vectors)


def test_spread_indices_are_distinct_and_cover_the_range_evenly():
    indices = spread_indices(1000, (3, 100), generator())
    assert indices.shape == (3, 100)
    assert torch.equal(indices // 10, torch.arange(100).expand(3, 100))
    assert not torch.equal(indices[0], indices[1])
    few = spread_indices(4, (100,), generator())
    assert few.min() == 0
    assert few.max() == 3
    assert few.bincount().tolist() == [25] * 4


def test_kmeans_finds_separate_clusters():
    samples, labels = blobs(600)
    # The samples are sorted by blob, so that stratified sampling draws one initial mean from each.
    means, codes = kmeans(samples, 12, 50, generator())
    assert torch.equal(codes, labels)
    torch.testing.assert_close(
        means, torch.stack([samples[labels == label].mean(0) for label in range(12)])
    )


def test_kmeans_converges_to_a_fixed_point_for_any_chunk_size():
    samples = torch.randn(400, 4, generator=generator(2))
    means, codes = kmeans(samples, 16, 200, generator())
    assert torch.equal(codes, nearest(samples, means))
    counts, sums = cluster_sums(samples, codes, 16)
    assert counts.min() > 0
    torch.testing.assert_close(means, sums / counts[:, None])
    for chunk in (1, 37):
        other_means, other_codes = kmeans(samples, 16, 200, generator(), chunk=chunk)
        assert torch.equal(other_codes, codes)
        torch.testing.assert_close(other_means, means)


def test_kmeans_is_reproducible_and_depends_on_the_generator():
    samples = torch.randn(200, 4, generator=generator(2))
    first, repeated, other = (kmeans(samples, 16, 3, generator(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(first, repeated)
    assert not torch.allclose(first, other)


def test_kmeans_with_more_clusters_than_distinct_samples():
    samples = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]).repeat(5, 1)
    means, codes = kmeans(samples, 10, 20, generator())
    assert means.isfinite().all()
    torch.testing.assert_close(means[codes], samples)


def test_kmeans_memory_is_bounded():
    samples = torch.randn(20000, 16, generator=generator())
    with LargestTensor() as largest:
        kmeans(samples, 64, 2, generator())
    assert largest.numel <= max(samples.numel(), 2**20) < 20000 * 64


def test_left_out_residuals_refer_to_clusters_without_the_sample():
    samples = torch.randn(60, 3, generator=generator(4))
    means, codes = kmeans(samples, 20, 100, generator())
    assert 1 in codes.bincount(), 'the case must have a cluster with a single sample'
    found = left_out_residuals(samples, means, codes)
    for i, sample in enumerate(samples):
        mates = (codes == codes[i]) & (torch.arange(60) != i)
        if mates.any():
            expected = sample - samples[mates].mean(0)
        else:
            others = sample - means[torch.arange(20) != codes[i]]
            expected = others[others.norm(dim=1).argmin()]
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('per_cluster', [3, 6])
def test_left_out_residuals_have_the_size_of_those_of_new_samples(per_cluster):
    clusters, dimension = 64, 16
    samples = torch.randn(clusters * per_cluster, dimension, generator=generator())
    new = torch.randn(2000, dimension, generator=generator(1))
    means, codes = kmeans(samples, clusters, 50, generator())
    truth = (new - means[nearest(new, means)]).square().mean()
    plain = (samples - means[codes]).square().mean()
    left_out = left_out_residuals(samples, means, codes).square().mean()
    assert plain < 0.75 * truth
    assert abs(left_out / truth - 1) < abs(plain / truth - 1) / 2
