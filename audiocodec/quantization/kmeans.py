"""Nearest neighbours, sums per cluster and k-means, without a samples x clusters x dimension
temporary.
"""

import torch

# Distances held at once. Four megabytes stay in a CPU's cache; a GPU wants few and large kernels.
_CPU_CHUNK = 2**20
_GPU_CHUNK = 2**26
# Distances of which a CPU finds the minimum in one go.
_GROUP = 64


def nearest(
    vectors: torch.Tensor,
    embed: torch.Tensor,
    norms: torch.Tensor | None = None,
    exclude: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Index of the entry of `embed` at the smallest Euclidean distance from each vector, the first
    of equals.

    From |x - e|² = |x|² - 2 x·e + |e|², of which |x|² is the same for every entry.

    Args:
        vectors: [N, D].
        embed: [bins, D].
        norms: [bins], |e|² of each entry; computed when not given.
        exclude: int64 [N], an entry that each vector may not choose.
        chunk: number of vectors compared at once; by default as many as bounded memory allows.

    Returns:
        int64 [N].
    """
    if norms is None:
        norms = embed.square().sum(-1)
    if chunk is None:
        chunk = max(1, (_CPU_CHUNK if vectors.device.type == 'cpu' else _GPU_CHUNK) // len(embed))
    # One piece of memory for all chunks: fresh memory costs a CPU as much as finding the minima.
    memory = torch.empty(
        min(chunk, len(vectors)), len(embed), dtype=vectors.dtype, device=vectors.device
    )
    indices = []
    for start in range(0, len(vectors), chunk):
        part = vectors[start : start + chunk]
        distances = torch.addmm(norms, part, embed.t(), alpha=-2, out=memory[: len(part)])
        if exclude is not None:
            distances.scatter_(1, exclude[start : start + chunk, None], float('inf'))
        indices.append(_first_minimum(distances))
    return (
        torch.cat(indices) if indices else torch.empty(0, dtype=torch.int64, device=vectors.device)
    )


def _first_minimum(rows: torch.Tensor) -> torch.Tensor:
    """Index of the smallest value of each row, the first of equals, int64 [N] of [N, M].

    A CPU takes 15 times as long to find where a minimum is as to find the minimum. So first the
    minima of groups, then the first group that has the smallest, then where in that group.
    """
    if rows.device.type != 'cpu' or rows.shape[1] % _GROUP:
        return rows.min(dim=1).indices  # faster than argmin
    number = rows.shape[1] // _GROUP
    group = rows.view(-1, number, _GROUP).amin(dim=-1).min(dim=1).indices
    row = torch.arange(0, len(rows) * number, number)
    within = rows.view(-1, _GROUP).index_select(0, row + group).min(dim=1).indices
    return group * _GROUP + within


def cluster_sums(
    vectors: torch.Tensor, codes: torch.Tensor, bins: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Number and sum of the vectors assigned to each entry.

    Args:
        vectors: [N, D].
        codes: int64 [N], the entry of each vector.
        bins: number of entries.

    Returns:
        Counts [bins] and sums [bins, D], of the type of `vectors`.
    """
    counts = vectors.new_zeros(bins).index_add_(0, codes, vectors.new_ones(len(codes)))
    sums = vectors.new_zeros(bins, vectors.shape[1]).index_add_(0, codes, vectors)
    return counts, sums


def spread_indices(n: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random positions below `n`, one in each of `shape[-1]` equal parts of [0, n): distinct when
    there are enough.

    Args:
        n: number of positions to draw from.
        shape: of the result; the draws along its last dimension are spread, the others independent.
        generator: on the CPU.

    Returns:
        int64 of the given shape, on the CPU.
    """
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
    """Lloyd's algorithm, from means drawn among the samples.

    An empty cluster is moved to a randomly drawn sample. The search ends when no sample changes its
    cluster.

    Args:
        samples: [N, D].
        clusters: number of clusters.
        iterations: the most updates of the means.
        generator: on the CPU; the same state of it and the same samples give the same clusters.
        chunk: number of samples compared at once, see `nearest`.

    Returns:
        Means [clusters, D] and the cluster of each sample, int64 [N].
    """

    def draw() -> torch.Tensor:
        return samples[spread_indices(len(samples), (clusters,), generator).to(samples.device)]

    means, previous = draw(), None
    for _ in range(iterations):
        codes = nearest(samples, means, chunk=chunk)
        if previous is not None and torch.equal(codes, previous):
            return means, codes
        counts, sums = cluster_sums(samples, codes, clusters)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], draw())
        previous = codes
    return means, nearest(samples, means, chunk=chunk)


def left_out_residuals(
    samples: torch.Tensor, means: torch.Tensor, codes: torch.Tensor
) -> torch.Tensor:
    """What each sample differs by from the clusters that the other samples would have formed.

    A mean of few samples is pulled towards each of them, so that the plain residuals of the samples
    that made the clusters are smaller than those of new ones, and codebooks made for them too small
    for anything else: with five samples a cluster, eight levels lost 4 dB on new log-mel frames of
    speech and music.

    Without sample x, the mean m of its cluster of s samples would be m - (x - m) / (s - 1), hence
    its residual (x - m) s / (s - 1). A sample alone in its cluster would have gone to the nearest
    other mean.

    Args:
        samples: [N, D].
        means: [clusters, D], of at least two clusters.
        codes: int64 [N], the cluster of each sample.

    Returns:
        [N, D].
    """
    counts = cluster_sums(samples, codes, len(means))[0][codes]
    residuals = (samples - means[codes]) * (counts / (counts - 1).clamp(min=1))[:, None]
    alone = (counts == 1).nonzero()[:, 0]
    others = nearest(samples[alone], means, exclude=codes[alone])
    residuals[alone] = samples[alone] - means[others]
    return residuals
