"""Nearest neighbors, cluster sums and k-means in bounded memory.

No temporary tensor has the size samples x clusters x dimension.
"""

import torch

# Distances in memory at a time. Four megabytes fit into a CPU's cache; a GPU is faster with a few
# large kernels.
_CPU_CHUNK = 2**20
_GPU_CHUNK = 2**26
# Size of the groups in which the minimum is searched on a CPU, see `first_minimum`.
_GROUP = 64
_FEW_ROWS = 16  # for which the time of operators counts more than that of their work


def nearest(
    vectors: torch.Tensor,
    embed: torch.Tensor,
    norms: torch.Tensor | None = None,
    exclude: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Return the index of the nearest entry of each vector; ties go to the lowest index.

    The Euclidean distance, |x - e|² = |x|² - 2 x·e + |e|², is compared without the term |x|², which
    is the same for all entries.

    Args:
        vectors: [N, D].
        embed: [bins, D].
        norms: [bins], |e|² of each entry; computed if not given.
        exclude: int64 [N], one entry per vector that it must not choose.
        chunk: vectors compared at a time; by default limited by `_CPU_CHUNK` or `_GPU_CHUNK`.

    Returns:
        int64 [N].
    """
    if norms is None:
        norms = embed.square().sum(-1)
    if chunk is None:
        chunk = max(1, (_CPU_CHUNK if vectors.device.type == 'cpu' else _GPU_CHUNK) // len(embed))
    # All chunks share one buffer: allocating memory takes a CPU as long as finding the minima.
    buffer = torch.empty(
        min(chunk, len(vectors)), len(embed), dtype=vectors.dtype, device=vectors.device
    )
    indices = []
    for start in range(0, len(vectors), chunk):
        part = vectors[start : start + chunk]
        distances = torch.addmm(norms, part, embed.t(), alpha=-2, out=buffer[: len(part)])
        if exclude is not None:
            distances.scatter_(1, exclude[start : start + chunk, None], float('inf'))
        indices.append(first_minimum(distances))
    return (
        torch.cat(indices) if indices else torch.empty(0, dtype=torch.int64, device=vectors.device)
    )


def first_minimum(rows: torch.Tensor) -> torch.Tensor:
    """Return the index of the minimum of each row, int64 [N] of [N, M].

    Ties go to the lowest index. On a CPU, finding the index of a minimum takes 15 times as long as
    finding its value. The CPU path therefore computes the minimum of each group, selects the first
    group with the smallest one, and searches the index within that group only.
    """
    if rows.device.type != 'cpu' or rows.shape[1] % _GROUP or rows.shape[0] <= _FEW_ROWS:
        return rows.min(dim=1).indices  # faster than argmin
    number = rows.shape[1] // _GROUP
    group = rows.view(-1, number, _GROUP).amin(dim=-1).min(dim=1).indices
    row = torch.arange(0, len(rows) * number, number)
    within = rows.view(-1, _GROUP).index_select(0, row + group).min(dim=1).indices
    return group * _GROUP + within


def cluster_sums(
    vectors: torch.Tensor, codes: torch.Tensor, bins: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number and the sum of the vectors assigned to each entry.

    Args:
        vectors: [N, D].
        codes: int64 [N], the entry of each vector.
        bins: number of entries.

    Returns:
        Counts [bins] and sums [bins, D], with the dtype of `vectors`.
    """
    counts = vectors.new_zeros(bins).index_add_(0, codes, vectors.new_ones(len(codes)))
    sums = vectors.new_zeros(bins, vectors.shape[1]).index_add_(0, codes, vectors)
    return counts, sums


def spread_indices(n: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Draw indices below `n` by stratified sampling.

    [0, n) is split into `shape[-1]` equal parts with one index in each. The indices are distinct if
    n >= shape[-1].

    Args:
        n: number of positions to draw from.
        shape: shape of the result. Draws are stratified along its last dimension and independent
            along the others.
        generator: random generator on the CPU.

    Returns:
        int64 of the given shape, on the CPU.
    """
    # In float64, because float32 does not represent all indices of large batches. The clamp is for
    # draws that are rounded up to n.
    parts = torch.arange(shape[-1], dtype=torch.float64)
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return ((parts + draws) * (n / shape[-1])).long().clamp_(max=n - 1)


def kmeans(
    samples: torch.Tensor,
    clusters: int,
    iterations: int,
    generator: torch.Generator,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run Lloyd's algorithm, starting from randomly drawn samples.

    An empty cluster is moved to a randomly drawn sample. The algorithm stops early when no sample
    changes its cluster.

    Args:
        samples: [N, D].
        clusters: number of clusters.
        iterations: maximum number of updates of the means.
        generator: random generator on the CPU; with the same state and the same samples, the
            clusters are the same.
        chunk: samples compared at a time, see `nearest`.

    Returns:
        Means [clusters, D] and the cluster of each sample, int64 [N].
    """

    def draw() -> torch.Tensor:
        return samples[spread_indices(len(samples), (clusters,), generator).to(samples.device)]

    means = draw()
    previous = None
    for _ in range(iterations):
        codes = nearest(samples, means, chunk=chunk)
        if previous is not None and torch.equal(codes, previous):
            return means, codes
        counts, sums = cluster_sums(samples, codes, clusters)
        # Drawn in every iteration, so that the random stream does not depend on the data.
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], draw())
        previous = codes
    return means, nearest(samples, means, chunk=chunk)


def left_out_residuals(
    samples: torch.Tensor, means: torch.Tensor, codes: torch.Tensor
) -> torch.Tensor:
    """Return the residual of each sample to the clusters that the other samples would have formed.

    The mean of a few samples is biased towards each of them. The plain residuals of the samples
    that formed the clusters are therefore smaller than those of new samples, and codebooks fitted
    to them are too small for new data: with five samples per cluster, eight levels lost 4 dB on new
    log-mel frames of speech and music.

    Without sample x, the mean m of its cluster of s samples would be m - (x - m) / (s - 1), which
    makes its residual (x - m) s / (s - 1). The only sample of a cluster would have been assigned to
    the nearest other mean.

    Args:
        samples: [N, D].
        means: [clusters, D], of at least two clusters.
        codes: int64 [N], the cluster of each sample.

    Returns:
        [N, D].
    """
    counts = cluster_sums(samples, codes, len(means))[0][codes]
    residuals = (samples - means[codes]) * (counts / (counts - 1).clamp(min=1))[:, None]
    single = (counts == 1).nonzero()[:, 0]
    others = nearest(samples[single], means, exclude=codes[single])
    residuals[single] = samples[single] - means[others]
    return residuals
