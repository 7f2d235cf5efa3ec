"""Residual codebooks learned by exponential moving averages.

All levels are stacked in the same tensors and updated together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from audiocodec.quantization.kmeans import (
    cluster_sums,
    first_minimum,
    kmeans,
    left_out_residuals,
    nearest,
    spread_indices,
)
from audiocodec.quantization.usage import DrawCounter
from audiocodec.utils import distrib

# Identifiers of the random streams, see `distrib.shared_generator`.
_DRAW_EMBED = 0x52565101
_DRAW_SAMPLES = 0x52565102
_DRAW_KMEANS = 0x52565103
_DRAW_REVIVAL = 0x52565104

# An entry whose cluster size is below this fraction of the average counts as unused; it also counts
# as dead if no other threshold is set.
UNUSED_FRACTION = 0.1
# Window of the moving averages: SHORTEST_WINDOW updates plus this fraction of the updates so far,
# up to the final 1 / (1 - decay).
WARMUP_FRACTION = 0.1
SHORTEST_WINDOW = 5
# Number of updates assumed for a codebook that does not store it: enough to reach the final window
# of any decay in use.
UPDATES_WHEN_UNKNOWN = 2**20
# Decay of the average from which usage is computed: a window of about ten updates. With a longer
# window, entries left behind by drifting latents would appear to be in use.
USAGE_DECAY = 0.9
# Maximum number of vectors per entry that k-means runs on.
KMEANS_SAMPLES_PER_ENTRY = 16


class ResidualCodes(NamedTuple):
    """N vectors quantized with the first K levels.

    Attributes:
        codes: int64 [K, N].
        quantized: [N, D], sum of the chosen entries.
        errors: [K], mean square of the residual after each level.
        remainders: [N, D], sum of the residuals after each level.
    """

    codes: torch.Tensor
    quantized: torch.Tensor
    errors: torch.Tensor
    remainders: torch.Tensor


class _BatchStats:
    """Statistics of a batch for one update, in tensors of fixed shapes.

    Attributes:
        counts: [K, bins], number of vectors assigned to each entry.
        sums: [K, bins, D], their sums.
        candidates: [K, bins, D], a vector from which each entry could restart, or None.
    """

    def __init__(self, like: torch.Tensor, valid: torch.Tensor, draws: torch.Tensor | None) -> None:
        self.counts = torch.zeros_like(like[..., 0])
        self.sums = torch.zeros_like(like)
        self.candidates = None if draws is None else torch.empty_like(like)
        self._valid = valid.to(like.dtype)
        self._draws = draws

    def add(self, level: int, residual: torch.Tensor, codes: torch.Tensor) -> None:
        """Add the residuals [N, D] at a level and the codes [N] assigned to them."""
        self.counts[level].index_add_(0, codes, self._valid)
        self.sums[level].index_add_(0, codes, residual * self._valid[:, None])
        if self.candidates is not None and self._draws is not None:
            _local_rows(residual, self._draws[level], out=self.candidates[level])

    def reduce(self) -> None:
        """Sum over the workers, in one collective."""
        distrib.all_reduce_sum_(
            part for part in (self.counts, self.sums, self.candidates) if part is not None
        )


def _local_rows(
    rows: torch.Tensor, indices: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Select rows of the global batch; rows of other workers are zeros.

    Args:
        rows: [N, D], the same N on every worker. The global batch concatenates them by rank.
        indices: int64 [M], into the global batch.
        out: output tensor.

    Returns:
        [M, D]; its sum over the workers holds the selected rows.
    """
    if distrib.world_size() == 1:
        return torch.index_select(rows, 0, indices, out=out)
    # Rows of other workers are read from any valid index, then zeroed.
    local = indices - distrib.rank() * len(rows)
    others = (local < 0) | (local >= len(rows))
    return torch.index_select(rows, 0, local.clamp(0, len(rows) - 1), out=out).masked_fill_(
        others[:, None], 0
    )


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to a device without waiting for it."""
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == 'cuda'
        else tensor.to(device)
    )


class Codebooks(DrawCounter):
    """K residual codebooks: each quantizes the residual of the previous ones.

    See SoundStream, arXiv 2107.03312, algorithm 1. Entries follow the mean of the vectors assigned
    to them by exponential moving averages (VQ-VAE, arXiv 1711.00937, appendix A.1) with
    Laplace-smoothed counts.

    The window of the averages starts short and grows until it matches `decay` (with 0.99, after
    about a thousand updates). At the beginning of training, the latents drift and change their
    scale within a few updates. Entries lagging by 100 updates stop being selected; a few take all
    the vectors. Long averages would also remember the old counts of the others, so that none of
    them would be found dead.

    Args:
        levels: number of codebooks K.
        bins: entries per codebook.
        dimension: channels D of an entry.
        decay: final decay of the moving averages, in [0, 1).
        dead_fraction: entries with a cluster size below this fraction of the average are replaced,
            see `ResidualVectorQuantizer`; 0: never.
        kmeans_iters: iterations of k-means on the first batch; 0: keep the random entries.
        epsilon: constant of the Laplace smoothing.
        seed: seed of the initial entries, of k-means and of the vectors that replace dead entries.

    Buffers:
        embed: [K, bins, D], the entries.
        embed_avg: [K, bins, D], moving average of the sum of the vectors assigned to an entry per
            update.
        cluster_size: [K, bins], moving average of their number, over the batch of all workers.
        inited: [K], 1 once the entries of a level are initialized.
        usage: [K, bins], moving average, over about ten updates, of the fraction of the vectors
            assigned to an entry. It is not reset when an entry is replaced, unlike `cluster_size`,
            so that entries that are replaced repeatedly without being used can be identified.
        dead: [K], fraction of dead entries at the latest update of the level.
        updates: int64, number of training updates; determines the window of the averages and the
            random draws.

    Attributes:
        distances: functions from vectors [N, D] to squared distances from the entries of a level,
            [N, bins], minus |x|², which replace those of `nearest` in `codes`; empty: none.
    """

    embed: torch.Tensor
    embed_avg: torch.Tensor
    cluster_size: torch.Tensor
    inited: torch.Tensor
    usage: torch.Tensor
    dead: torch.Tensor

    def __init__(
        self,
        levels: int,
        bins: int,
        dimension: int,
        decay: float = 0.99,
        dead_fraction: float = UNUSED_FRACTION,
        kmeans_iters: int = 10,
        epsilon: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.bins = bins
        self.dimension = dimension
        self.decay = decay
        self.dead_fraction = dead_fraction
        self.kmeans_iters = kmeans_iters
        self.epsilon = epsilon
        self.seed = seed
        # A restarted entry gets this fraction of the average cluster size, three times the
        # threshold. An unused one is then dead again after about one window of the averages, and a
        # used one follows its vectors faster than an average entry. On log-mel frames of speech and
        # music, factors of 2 and 3 were slightly better than 10.
        self.restart_fraction = min(1.0, 3 * (dead_fraction or UNUSED_FRACTION))
        # Uniform with variance 2 / D: a norm of about sqrt(2) for any D.
        embed = torch.empty(levels, bins, dimension)
        embed.uniform_(
            -((6 / dimension) ** 0.5),
            (6 / dimension) ** 0.5,
            generator=self._generator(_DRAW_EMBED),
        )
        self.register_buffer('embed', embed)
        self.register_buffer('embed_avg', embed.clone())
        self.register_buffer('cluster_size', torch.ones(levels, bins))
        self.register_buffer('inited', torch.full((levels,), float(kmeans_iters == 0)))
        self.register_buffer('usage', torch.zeros(levels, bins))
        self.register_buffer('dead', torch.zeros(levels))
        self.register_buffer('updates', torch.zeros((), dtype=torch.int64))
        self.distances: list[Callable[[torch.Tensor], torch.Tensor]] = []
        # Copy of `inited` on the host, as of `updates`. False: not known, read the buffer.
        self._all_initialized = kmeans_iters == 0

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load a state, with defaults for statistics that checkpoints of other programs lack.

        Usage starts from the cluster sizes, and `updates` from `UPDATES_WHEN_UNKNOWN`.
        """
        # The dictionary is a copy made by `load_state_dict`: defaults may be added to it.
        sizes = state_dict.get(prefix + 'cluster_size')
        if sizes is not None:
            state_dict.setdefault(
                prefix + 'usage', sizes / sizes.sum(-1, keepdim=True).clamp(min=self.epsilon)
            )
            state_dict.setdefault(prefix + 'dead', torch.zeros_like(self.dead))
            state_dict.setdefault(
                prefix + 'updates', torch.full_like(self.updates, UPDATES_WHEN_UNKNOWN)
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._updates = None
        self._all_initialized = False

    @torch.no_grad()
    def settle_statistics(self) -> None:
        """Adapt the statistics to entries loaded from another run.

        The next updates then move the entries and replace none. A file may hold entries averaged
        over many updates, but statistics of a single update, or zeros. Rarely used entries get as
        much time to be selected in new data as restarted ones. If the mean cluster size of a level
        is zero or not finite, all of its entries start with a size of 1. The window of the averages
        does not start short again.
        """
        mean = self.cluster_size.mean(-1, keepdim=True)
        known = (mean > 0) & mean.isfinite()
        self.cluster_size.copy_(
            torch.where(known, torch.maximum(self.cluster_size, self.restart_fraction * mean), 1)
        )
        self.embed_avg.copy_(self.embed * self.cluster_size[..., None])
        self.updates.clamp_(min=UPDATES_WHEN_UNKNOWN)
        self._updates = None

    def drop_statistics(self) -> None:
        """Free all buffers except the entries; the codebooks can no longer be trained."""
        for name in ('embed_avg', 'cluster_size', 'inited', 'usage', 'dead', 'updates'):
            setattr(self, name, None)

    def _generator(self, *numbers: int) -> torch.Generator:
        return distrib.shared_generator(self.seed, *numbers)

    @torch.no_grad()
    def encode(self, vectors: torch.Tensor, levels: int) -> ResidualCodes:
        """Quantize vectors [N, D] with the first `levels` codebooks."""
        return self._quantize(vectors, levels, levels, batch_stats=None)

    @torch.no_grad()
    def codes(self, vectors: torch.Tensor, levels: int) -> torch.Tensor:
        """Return the codes, int64 [K, N], of vectors [N, D] with the first `levels` codebooks."""
        found = []
        for level in range(levels):
            entries = self.embed[level]
            if self.distances:
                found.append(first_minimum(self.distances[level](vectors)))
            else:
                found.append(nearest(vectors, entries))
            vectors = vectors - F.embedding(found[-1], entries)
        return torch.stack(found)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the sum of the entries, [N, D], of codes int64 [K, N]."""
        quantized = self.embed.new_zeros(codes.shape[1], self.dimension)
        for level, indices in enumerate(codes):
            quantized += F.embedding(indices, self.embed[level])
        return quantized

    @torch.no_grad()
    def learn(self, vectors: torch.Tensor, levels: int, used: int) -> ResidualCodes:
        """Quantize vectors [N, D] with `used` codebooks, then update the first `levels` codebooks.

        Non-finite vectors are excluded from the update and make the errors NaN. Collective: every
        worker must call it, with the same shapes.
        """
        # Replaced by zeros of weight 0 instead of removed: shapes that depend on the data would
        # synchronize with the device.
        valid = vectors.square().sum(1).isfinite()
        vectors = torch.where(valid[:, None], vectors, 0)
        draws = None
        if self.dead_fraction:
            generator = self._generator(_DRAW_REVIVAL, self.count())
            draws = spread_indices(
                distrib.world_size() * len(vectors), (levels, self.bins), generator
            )
            draws = _to_device(draws, vectors.device)
        batch_stats = _BatchStats(self.embed[:levels], valid, draws)
        result = self._quantize(vectors, levels, used, batch_stats)
        batch_stats.reduce()
        self._update(batch_stats, levels)
        # Count only updates since the k-means initialization, which creates the entries.
        if self._all_initialized:
            self.advance()
        return result._replace(errors=torch.where(valid.all(), result.errors, torch.nan))

    def _quantize(
        self, vectors: torch.Tensor, levels: int, used: int, batch_stats: _BatchStats | None
    ) -> ResidualCodes:
        """Quantize with the first `used` levels; add statistics of the first `levels` levels."""
        residual = vectors
        quantized = torch.zeros_like(vectors)
        remainders = torch.zeros_like(vectors)
        codes = []
        errors = []
        for level in range(levels):
            indices = nearest(residual, self.embed[level])
            if batch_stats is not None:
                batch_stats.add(level, residual, indices)
            entries = F.embedding(indices, self.embed[level])
            residual = residual - entries
            if level >= used:
                continue
            quantized += entries
            remainders += residual
            codes.append(indices)
            errors.append(residual.square().mean())
        return ResidualCodes(torch.stack(codes), quantized, torch.stack(errors), remainders)

    def _update(self, batch_stats: _BatchStats, levels: int) -> None:
        """Update the moving averages, then the entries, of the first `levels` codebooks."""
        size = self.cluster_size[:levels]  # views: the in-place operations change the buffers
        average = self.embed_avg[:levels]
        counts = batch_stats.counts
        new = max(1 - self.decay, 1 / (SHORTEST_WINDOW + WARMUP_FRACTION * self.count()))
        size.mul_(1 - new).add_(counts, alpha=new)
        average.lerp_(batch_stats.sums, new)
        fractions = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        self.usage[:levels].lerp_(fractions, 1 - min(self.decay, USAGE_DECAY))

        total = size.sum(-1, keepdim=True)
        smoothed = (size + self.epsilon) / (total + self.bins * self.epsilon) * total
        dead = size < (self.dead_fraction or UNUSED_FRACTION) * total / self.bins
        self.dead[:levels] = dead.to(size.dtype).mean(-1)
        if batch_stats.candidates is not None:
            # Entry, average and count are reset together: an entry changed in `embed` alone would
            # be overwritten from `embed_avg` at once.
            restart = (self.restart_fraction * total / self.bins).expand_as(size)
            size.copy_(torch.where(dead, restart, size))
            smoothed = torch.where(dead, restart, smoothed)
            restarted = batch_stats.candidates.mul_(restart[..., None])
            torch.where(dead[..., None], restarted, average, out=average)
        torch.div(average, smoothed[..., None], out=self.embed[:levels])

    @torch.no_grad()
    def initialize(self, vectors: torch.Tensor) -> None:
        """Initialize, once, all uninitialized levels by k-means on the residuals of vectors [N, D].

        K-means runs on a sample of the global batch, the same on every worker. Nothing happens if
        the sample is not finite. Collective: every worker must call it, with the same shapes.
        """
        if self.inited is None:
            raise ValueError(
                'codebooks without statistics cannot be trained: train the original model, not the '
                'copy that for_inference() returned'
            )
        if self._all_initialized:
            return
        missing = (self.inited == 0).tolist()  # synchronizes, but only in the first update
        if any(missing):
            samples, scale = self._gather_samples(vectors)
            if not samples.isfinite().all():
                return
            self._initialize_levels(samples, scale, missing)
            # The workers have the same results already, except for the order in which atomic
            # operations of GPUs add up sums.
            distrib.broadcast_(
                [self.embed, self.embed_avg, self.cluster_size, self.usage, self.inited]
            )
        self._all_initialized = True

    def _gather_samples(self, vectors: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Draw at most `KMEANS_SAMPLES_PER_ENTRY` vectors per entry from the global batch.

        Returns:
            The samples, and the size of the batch divided by their number.
        """
        total = distrib.world_size() * len(vectors)
        number = min(total, KMEANS_SAMPLES_PER_ENTRY * self.bins)
        indices = spread_indices(total, (number,), self._generator(_DRAW_SAMPLES))
        samples = _local_rows(vectors, indices.to(vectors.device))
        distrib.all_reduce_sum_([samples])
        return samples, total / number

    def _initialize_levels(self, samples: torch.Tensor, scale: float, missing: list[bool]) -> None:
        residuals = samples
        for level, is_missing in enumerate(missing):
            if not is_missing:
                residuals = residuals - self.embed[level][nearest(residuals, self.embed[level])]
                continue
            embed, residuals, counts = self._kmeans_level(residuals, level)
            # Entries without vectors get as much time to be selected as restarted ones.
            sizes = scale * counts.clamp(min=self.restart_fraction * len(samples) / self.bins)
            self.embed[level] = embed
            self.cluster_size[level] = sizes
            self.embed_avg[level] = embed * sizes[:, None]
            self.usage[level] = counts / len(samples)
            self.inited[level] = 1

    def _kmeans_level(
        self, samples: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run k-means on the samples [N, D] of a level.

        Returns:
            Entries [bins, D], residuals [N, D] for the next level, and counts [bins].
        """
        generator = self._generator(_DRAW_KMEANS, level)
        # With fewer than two samples per cluster, the means would be the samples themselves.
        clusters = max(1, min(self.bins, len(samples) // 2))
        means, codes = kmeans(samples, clusters, self.kmeans_iters, generator)
        # A single cluster has no other mean that a sample could have been assigned to.
        residuals = (
            left_out_residuals(samples, means, codes) if clusters > 1 else samples - means[codes]
        )
        if clusters < self.bins:
            # Synthesize the remaining entries: a mean plus the residual of some other sample.
            first, second = spread_indices(len(samples), (2, self.bins - clusters), generator).to(
                samples.device
            )
            second = second[torch.randperm(len(second), generator=generator).to(second.device)]
            means = torch.cat([means, means[codes[first]] + residuals[second]])
        if level > 0:
            # A zero entry: initially, no level increases the error of any vector.
            means[means.square().sum(-1).argmin()] = 0
        codes = nearest(samples, means)
        return means, residuals, cluster_sums(samples, codes, self.bins)[0]

    def stats(self) -> dict[str, torch.Tensor]:
        """Return statistics of each level, [K], on the device; empty after `drop_statistics`.

        Returns:
            'usage': fraction of the entries that recently took at least UNUSED_FRACTION of the
            average number of vectors; 'perplexity': of the entries' fractions of the vectors,
            between 1 and bins; 'dead': fraction of dead entries at the latest update of the level;
            'revived': fraction replaced in that update.
        """
        if self.usage is None:
            return {}
        fractions = self.usage / self.usage.sum(-1, keepdim=True).clamp(min=self.epsilon)
        return {
            'usage': (fractions >= UNUSED_FRACTION / self.bins).to(fractions.dtype).mean(-1),
            'perplexity': torch.special.entr(fractions).sum(-1).exp(),
            'dead': self.dead.clone(),
            'revived': self.dead.clone() if self.dead_fraction else torch.zeros_like(self.dead),
        }
