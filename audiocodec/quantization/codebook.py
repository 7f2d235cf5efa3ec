"""Residual codebooks learnt by exponential moving averages: all levels in stacked tensors, updated
together.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.quantization.kmeans import (
    cluster_sums,
    kmeans,
    left_out_residuals,
    nearest,
    spread_indices,
)
from audiocodec.utils import distrib

# Purposes of the shared random streams.
_DRAW_EMBED, _DRAW_SAMPLES, _DRAW_KMEANS, _DRAW_REVIVAL = (
    0x52565101,
    0x52565102,
    0x52565103,
    0x52565104,
)

# A share of the average entry's cluster size below which an entry counts as unused, and as dead if
# nothing else is set.
UNUSED_SHARE = 0.1
# The moving averages reach back over this share of a codebook's updates so far, but over at least
# so many, and at most over the 1 / (1 - decay) that they have in the long run.
YOUTH_SHARE, SHORTEST_WINDOW = 0.1, 5
# Updates that a codebook of unknown age is taken to have had: enough for the long run of any decay
# in use.
MATURE = 2**20
# Of the moving average that tells usage. It reaches back over some ten updates: over more, entries
# that drifting latents have left behind would seem to be in use.
USAGE_DECAY = 0.9
# K-means sees at most this many vectors for each entry.
KMEANS_SAMPLES_PER_ENTRY = 16


class ResidualCodes(NamedTuple):
    """N vectors quantized with the first K levels.

    Attributes:
        codes: int64 [K, N].
        quantized: [N, D], sum of the chosen entries.
        errors: [K], mean square of what remains after each level.
        remainders: [N, D], sum over the levels of what remains after each.
    """

    codes: torch.Tensor
    quantized: torch.Tensor
    errors: torch.Tensor
    remainders: torch.Tensor


class _Tally:
    """What one update needs to know of the batch, of fixed shapes whatever the data.

    Attributes:
        counts: [K, bins], vectors assigned to each entry.
        sums: [K, bins, D], their sums.
        candidates: [K, bins, D], for each entry a vector that it could restart from, or None.
    """

    def __init__(self, like: torch.Tensor, valid: torch.Tensor, draws: torch.Tensor | None) -> None:
        self.counts = torch.zeros_like(like[..., 0])
        self.sums = torch.zeros_like(like)
        self.candidates = None if draws is None else torch.empty_like(like)
        self._valid = valid.to(like.dtype)
        self._draws = draws

    def add(self, level: int, residual: torch.Tensor, codes: torch.Tensor) -> None:
        """Count the vectors [N, D] that reached a level."""
        self.counts[level].index_add_(0, codes, self._valid)
        self.sums[level].index_add_(0, codes, residual * self._valid[:, None])
        if self.candidates is not None and self._draws is not None:
            _share_of_rows(residual, self._draws[level], out=self.candidates[level])

    def reduce(self) -> None:
        """Sum over the workers, in one collective."""
        distrib.all_reduce_sum_(
            part for part in (self.counts, self.sums, self.candidates) if part is not None
        )


def _share_of_rows(
    rows: torch.Tensor, indices: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """This worker's share of some rows of the batch of all workers: zeros for the rows of others.

    Args:
        rows: [N, D], the same N on every worker; the global batch has them in order of rank.
        indices: int64 [M], into the global batch.
        out: where to put the result.

    Returns:
        [M, D], to be summed over the workers.
    """
    if distrib.world_size() == 1:
        return torch.index_select(rows, 0, indices, out=out)
    local = indices - distrib.rank() * len(rows)
    others = (local < 0) | (local >= len(rows))
    return torch.index_select(rows, 0, local.clamp(0, len(rows) - 1), out=out).masked_fill_(
        others[:, None], 0
    )


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move without waiting for the device."""
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == 'cuda'
        else tensor.to(device)
    )


class Codebooks(nn.Module):
    """K codebooks; each quantizes what the ones before it left over (SoundStream, arXiv 2107.03312,
    algorithm 1).

    Entries follow the mean of the vectors assigned to them by exponential moving averages (VQ-VAE,
    arXiv 1711.00937, appendix A.1) with Laplace-smoothed counts.

    The averages begin short and grow to what `decay` says (with 0.99 in some thousand updates). The
    latents of a model that has just started to learn drift, and change their scale, within a few
    updates. Entries that follow a hundred updates behind are left aside: the few at the near end
    take all vectors, and as the averages remember the others for as long, none of them is found
    dead.

    Args:
        levels: number of codebooks K.
        bins: entries of each.
        dimension: channels D of an entry.
        decay: of the moving averages in the long run, in [0, 1).
        dead_share: entries with less than this share of the average entry's cluster size are
            replaced, see `ResidualVectorQuantizer`; 0: never.
        kmeans_iters: iterations of k-means for the first batch; 0: keep the random entries.
        epsilon: of the Laplace smoothing.
        seed: of the initial entries, of k-means and of the vectors that replace dead entries.

    Buffers:
        embed: [K, bins, D], the entries.
        embed_avg: [K, bins, D], moving average of the sum of the vectors assigned to an entry in
            one update.
        cluster_size: [K, bins], moving average of their number, over the batch of all workers.
        inited: [K], 1 once the entries of a level are initialised.
        usage: [K, bins], moving average, over some ten updates, of the share of the vectors that an
            entry takes. Unlike `cluster_size` it is not reset when an entry is replaced: one that
            is replaced again and again without being used shows.
        dead: [K], share of the entries found dead at the latest update of the level.
        updates: int64, number of training updates: the age of the averages, and the counter of the
            random draws.
    """

    embed: torch.Tensor
    embed_avg: torch.Tensor
    cluster_size: torch.Tensor
    inited: torch.Tensor
    usage: torch.Tensor
    dead: torch.Tensor
    updates: torch.Tensor

    def __init__(
        self,
        levels: int,
        bins: int,
        dimension: int,
        decay: float = 0.99,
        dead_share: float = UNUSED_SHARE,
        kmeans_iters: int = 10,
        epsilon: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.bins, self.dimension = bins, dimension
        self.decay, self.dead_share, self.kmeans_iters, self.epsilon = (
            decay,
            dead_share,
            kmeans_iters,
            epsilon,
        )
        self.seed = seed
        # A new entry gets as many updates to be used, before it is dead, as the averages about
        # reach back over, and follows its vectors faster than one with the average cluster size. On
        # log-mel frames of speech and music, 2 and 3 did slightly better than 10.
        self.restart_share = min(1.0, 3 * (dead_share or UNUSED_SHARE))
        # Uniform of variance 2 / D: a norm of about sqrt(2) whatever D.
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
        # What the host knows of `updates` and `inited`, so that reading them does not wait for the
        # device.
        self._updates: int | None = 0
        self._all_inited = kmeans_iters == 0

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load; statistics that a foreign checkpoint lacks start from its cluster sizes, and it
        counts as mature.
        """
        sizes = state_dict.get(prefix + 'cluster_size')
        if sizes is not None:
            state_dict.setdefault(
                prefix + 'usage', sizes / sizes.sum(-1, keepdim=True).clamp(min=self.epsilon)
            )
            state_dict.setdefault(prefix + 'dead', torch.zeros_like(self.dead))
            state_dict.setdefault(prefix + 'updates', torch.full_like(self.updates, MATURE))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._updates, self._all_inited = None, False

    @torch.no_grad()
    def settle_statistics(self) -> None:
        """Make the statistics fit the entries, which are another run's: the next updates move them,
        and replace none.

        The entries of a file may be averages over many updates, and its statistics those of one, or
        zeros. Entries that were hardly used get as much time to find vectors in other data as
        restarted ones. Where the sizes of a level say nothing, it starts as if every entry had been
        chosen once in an update. The averages are not short at first.
        """
        mean = self.cluster_size.mean(-1, keepdim=True)
        known = (mean > 0) & mean.isfinite()
        self.cluster_size.copy_(
            torch.where(known, torch.maximum(self.cluster_size, self.restart_share * mean), 1)
        )
        self.embed_avg.copy_(self.embed * self.cluster_size[..., None])
        self.updates.clamp_(min=MATURE)
        self._updates = None

    def drop_statistics(self) -> None:
        """Keep the entries alone, to encode and decode with: nothing can be learnt any more."""
        for name in ('embed_avg', 'cluster_size', 'inited', 'usage', 'dead', 'updates'):
            setattr(self, name, None)

    def _generator(self, *numbers: int) -> torch.Generator:
        return distrib.shared_generator(self.seed, *numbers)

    def count(self) -> int:
        """Number of training updates so far."""
        if self._updates is None:
            self._updates = int(self.updates)
        return self._updates

    @torch.no_grad()
    def encode(self, vectors: torch.Tensor, levels: int) -> ResidualCodes:
        """Quantize vectors [N, D] with the first `levels` codebooks."""
        return self._quantize(vectors, levels, levels, tally=None)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Sum of the entries, [N, D], of codes int64 [K, N]."""
        quantized = self.embed.new_zeros(codes.shape[1], self.dimension)
        for level, indices in enumerate(codes):
            quantized += F.embedding(indices, self.embed[level])
        return quantized

    @torch.no_grad()
    def learn(self, vectors: torch.Tensor, levels: int, used: int) -> ResidualCodes:
        """Quantize vectors [N, D] as `encode` does with `used` codebooks, then move the first
        `levels` towards them.

        Vectors that are not finite are not learnt from, and make the errors NaN.
        Collective: every worker calls it, with the same shapes.
        """
        valid = vectors.square().sum(1).isfinite()
        vectors = torch.where(valid[:, None], vectors, 0)
        draws = None
        if self.dead_share:
            generator = self._generator(_DRAW_REVIVAL, self.count())
            draws = spread_indices(
                distrib.world_size() * len(vectors), (levels, self.bins), generator
            )
            draws = _to_device(draws, vectors.device)
        tally = _Tally(self.embed[:levels], valid, draws)
        found = self._quantize(vectors, levels, used, tally)
        tally.reduce()
        self._update(tally, levels)
        if self._all_inited:  # their age, else, would not be that of the entries
            self._updates = self.count() + 1
            self.updates += 1
        return found._replace(errors=torch.where(valid.all(), found.errors, torch.nan))

    def _quantize(
        self, vectors: torch.Tensor, levels: int, used: int, tally: _Tally | None
    ) -> ResidualCodes:
        """Quantize with `used` levels; count what reaches any of `levels`."""
        residual, quantized, remainders = (
            vectors,
            torch.zeros_like(vectors),
            torch.zeros_like(vectors),
        )
        codes, errors = [], []
        for level in range(levels):
            indices = nearest(residual, self.embed[level])
            if tally is not None:
                tally.add(level, residual, indices)
            entries = F.embedding(indices, self.embed[level])
            residual = residual - entries
            if level >= used:
                continue
            quantized += entries
            remainders += residual
            codes.append(indices)
            errors.append(residual.square().mean())
        return ResidualCodes(torch.stack(codes), quantized, torch.stack(errors), remainders)

    def _update(self, tally: _Tally, levels: int) -> None:
        """Moving averages, then the entries, of the first `levels` codebooks."""
        size, average = self.cluster_size[:levels], self.embed_avg[:levels]
        new = max(1 - self.decay, 1 / (SHORTEST_WINDOW + YOUTH_SHARE * self.count()))
        size.mul_(1 - new).add_(tally.counts, alpha=new)
        average.lerp_(tally.sums, new)
        shares = tally.counts / tally.counts.sum(-1, keepdim=True).clamp(min=1)
        self.usage[:levels].lerp_(shares, 1 - min(self.decay, USAGE_DECAY))

        total = size.sum(-1, keepdim=True)
        smoothed = (size + self.epsilon) / (total + self.bins * self.epsilon) * total
        dead = size < (self.dead_share or UNUSED_SHARE) * total / self.bins
        self.dead[:levels] = dead.to(size.dtype).mean(-1)
        if tally.candidates is not None:
            # The three go together: an entry put in `embed` alone would be overwritten from
            # `embed_avg` at once.
            restart = (self.restart_share * total / self.bins).expand_as(size)
            size.copy_(torch.where(dead, restart, size))
            smoothed = torch.where(dead, restart, smoothed)
            torch.where(
                dead[..., None], tally.candidates.mul_(restart[..., None]), average, out=average
            )
        torch.div(average, smoothed[..., None], out=self.embed[:levels])

    @torch.no_grad()
    def initialise(self, vectors: torch.Tensor) -> None:
        """Run k-means, once, for the levels not initialised yet, in order, on the residuals of
        vectors [N, D].

        A sample of the batch of all workers is used, equal on each of them. Nothing happens if it
        is not finite. Collective: every worker calls it, with the same shapes.
        """
        if self.inited is None:
            raise ValueError(
                'codebooks without statistics cannot be trained: train the model that '
                'for_inference() was '
                'called on, not the copy.'
            )
        if self._all_inited:
            return
        missing = (self.inited == 0).tolist()
        if any(missing):
            samples, scale = self._gather_samples(vectors)
            if not samples.isfinite().all():
                return
            self._initialise_levels(samples, scale, missing)
            # The results are equal already, unless the sums of a GPU's atomic operations differ.
            distrib.broadcast_(
                [self.embed, self.embed_avg, self.cluster_size, self.usage, self.inited]
            )
        self._all_inited = True

    def _gather_samples(self, vectors: torch.Tensor) -> tuple[torch.Tensor, float]:
        """At most KMEANS_SAMPLES_PER_ENTRY vectors an entry of the batch of all workers, and its
        size over theirs.
        """
        total = distrib.world_size() * len(vectors)
        number = min(total, KMEANS_SAMPLES_PER_ENTRY * self.bins)
        indices = spread_indices(total, (number,), self._generator(_DRAW_SAMPLES))
        samples = _share_of_rows(vectors, indices.to(vectors.device))
        distrib.all_reduce_sum_([samples])
        return samples, total / number

    def _initialise_levels(self, samples: torch.Tensor, scale: float, missing: list[bool]) -> None:
        residuals = samples
        for level, wanted in enumerate(missing):
            if not wanted:
                residuals = residuals - self.embed[level][nearest(residuals, self.embed[level])]
                continue
            embed, residuals, counts = self._kmeans_level(residuals, level)
            # Entries without vectors get the time to find some that revived entries get.
            sizes = scale * counts.clamp(min=self.restart_share * len(samples) / self.bins)
            self.embed[level] = embed
            self.cluster_size[level] = sizes
            self.embed_avg[level] = embed * sizes[:, None]
            self.usage[level] = counts / len(samples)
            self.inited[level] = 1

    def _kmeans_level(
        self, samples: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Entries [bins, D] for samples [N, D] of a level, the residuals [N, D] for the next, and
        counts [bins].
        """
        generator = self._generator(_DRAW_KMEANS, level)
        # With fewer than two samples a cluster the means would be the samples themselves.
        clusters = max(1, min(self.bins, len(samples) // 2))
        means, codes = kmeans(samples, clusters, self.kmeans_iters, generator)
        residuals = (
            left_out_residuals(samples, means, codes) if clusters > 1 else samples - means[codes]
        )
        if clusters < self.bins:
            # The other entries are made up: a mean, and a residual that occurs.
            first, second = spread_indices(len(samples), (2, self.bins - clusters), generator).to(
                samples.device
            )
            second = second[torch.randperm(len(second), generator=generator).to(second.device)]
            means = torch.cat([means, means[codes[first]] + residuals[second]])
        if level > 0:
            # An entry at zero: at first, no level makes any vector worse.
            means[means.square().sum(-1).argmin()] = 0
        codes = nearest(samples, means)
        return means, residuals, cluster_sums(samples, codes, self.bins)[0]

    def stats(self) -> dict[str, torch.Tensor]:
        """Figures of each level, [K], on the device.

        Returns:
            'usage': share of the entries that took at least UNUSED_SHARE of an average entry's
            vectors lately; 'perplexity': of the entries' shares, between 1 and bins; 'dead': share
            of the entries that were dead at the latest update of the level; 'revived': share that
            was replaced then. Nothing after `drop_statistics`.
        """
        if self.usage is None:
            return {}
        shares = self.usage / self.usage.sum(-1, keepdim=True).clamp(min=self.epsilon)
        return {
            'usage': (shares >= UNUSED_SHARE / self.bins).to(shares.dtype).mean(-1),
            'perplexity': torch.special.entr(shares).sum(-1).exp(),
            'dead': self.dead.clone(),
            'revived': self.dead.clone() if self.dead_share else torch.zeros_like(self.dead),
        }
