"""Codebook usage: averaged over training updates, and counted from the codes of a data set.

Nothing here reads a value from the device, except the counter of updates once after loading it.
"""

from typing import Any

import torch
from torch import nn

from audiocodec.utils import distrib

# An entry counts as used if it takes at least this fraction of the average number of vectors.
UNUSED_FRACTION = 0.1
# Decay of the averages: a window of about ten updates.
DECAY = 0.9
# Larger codebooks are counted in this many classes of entries.
LARGEST = 2**16
# Multiplier of the Fibonacci hash, 2**64 / golden ratio, as a signed number.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


class DrawCounter(nn.Module):
    """Counts training updates; the count seeds the random draws.

    It is in training mode while the model trains, even if the quantizer is frozen and in eval mode:
    such a quantizer does not learn, but it draws, so that the decoder is trained at all bit rates.

    Buffers:
        updates: int64, number of training updates; the subclass registers it.
    """

    updates: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Copy on the host: reading the buffer would synchronize with the device. None: not known.
        self._updates: int | None = 0

    def count(self) -> int:
        """Return the number of training updates so far.

        Raises:
            ValueError: the buffer was freed.
        """
        if self.updates is None:
            raise ValueError(
                'a quantizer without statistics cannot be trained: train the original model, not '
                'the copy that for_inference() returned'
            )
        if self._updates is None:
            self._updates = int(self.updates)
        return self._updates

    def advance(self) -> None:
        """Count an update."""
        self._updates = self.count() + 1
        self.updates += 1


class UpdateCounter(DrawCounter):
    """Counter with nothing else, or with statistics that start from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('updates', torch.zeros((), dtype=torch.int64))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load a state; statistics that it lacks, as exported models do, start from zeros."""
        # The dictionary is a copy made by `load_state_dict`: defaults may be added to it.
        for name, value in self._buffers.items():
            if value is not None:
                state_dict.setdefault(prefix + name, torch.zeros_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._updates = None

    def drop(self) -> None:
        """Free all buffers; there are no further updates."""
        for name in list(self._buffers):
            setattr(self, name, None)


class CodeStatistics(UpdateCounter):
    """Counts updates, and how often each code was used in about the last ten of them.

    Codebooks with more than 2**16 entries are counted in 2**16 classes, to which a hash assigns the
    codes: `usage` is then the fraction of the classes, and `perplexity` at most 2**16.

    Args:
        levels: number of codebooks K.
        bins: entries per codebook.

    Buffers:
        usage: [K, min(bins, 2**16)], moving average of the fraction of the vectors of all workers
            that an entry takes.
        updates: int64, number of training updates.
    """

    usage: torch.Tensor

    def __init__(self, levels: int, bins: int) -> None:
        super().__init__()
        self.is_hashed = bins > LARGEST
        self.register_buffer('usage', torch.zeros(levels, min(bins, LARGEST)))

    @torch.no_grad()
    def add(self, codes: torch.Tensor) -> None:
        """Add the codes, int64 [B, K', T], of an update with the first K' <= K codebooks.

        Collective: every worker must call it, with the same shape.
        """
        self.advance()
        flat = codes.transpose(0, 1).flatten(1)
        if self.is_hashed:
            # The upper 16 bits of the product; >> keeps the sign.
            flat = (flat * _GOLDEN >> 48) & (LARGEST - 1)
        usage = self.usage[: len(flat)]  # a view: changes the buffer
        counts = torch.zeros_like(usage)
        counts.scatter_add_(1, flat, counts.new_ones(()).expand_as(flat))
        distrib.all_reduce_sum_([counts])
        usage.lerp_(counts / (flat.shape[1] * distrib.world_size()), 1 - DECAY)

    def metrics(self, levels: int) -> dict[str, torch.Tensor]:
        """Return the metrics of the first `levels` codebooks, on the device; empty after `drop`.

        A codebook that dropout has not drawn yet has the mean of the others, so that it counts
        neither as unused nor as used. Before the first update, all are 0, and perplexities 1.

        Returns:
            Per codebook, [levels]: 'usage', fraction of the entries that took at least a tenth of
            the average number of vectors; 'perplexity' of the fractions, from 1 to bins. Means:
            'codebook_usage' and 'codebook_perplexity'; lowest usage: 'codebook_usage_min'.
        """
        if self.usage is None:
            return {}
        usage = self.usage[:levels]
        total = usage.sum(-1, keepdim=True)
        # The averages start from zeros: divided by their sum, they are fractions from the start.
        fractions = usage / total.clamp(min=1e-12)
        used = (fractions >= UNUSED_FRACTION / usage.shape[1]).to(usage.dtype).mean(-1)
        perplexity = torch.special.entr(fractions).sum(-1).exp()
        is_known = total[:, 0] > 0
        used, perplexity = (
            torch.where(is_known, values, _mean(values, is_known)) for values in (used, perplexity)
        )
        return {
            'usage': used,
            'perplexity': perplexity,
            'codebook_usage': used.mean(),
            'codebook_usage_min': used.min(),
            'codebook_perplexity': perplexity.mean(),
        }


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the mean of the values [K] where a mask is true; of all if it is nowhere."""
    weights = (where | ~where.any()).to(values.dtype)
    return (values * weights).sum() / weights.sum()


class CodeUsage:
    """Counts codes per level, on their device and without synchronizing with it.

    Args:
        levels: number of codebooks K.
        bins: entries per codebook.
    """

    def __init__(self, levels: int, bins: int) -> None:
        self.counts = torch.zeros(levels, bins, dtype=torch.int64)

    def add(self, codes: torch.Tensor) -> None:
        """Count codes [B, K', T], integers of any type, of the first K' <= K codebooks."""
        self.counts = self.counts.to(codes.device)
        flat = codes.long().transpose(0, 1).flatten(1)
        self.counts[: len(flat)].scatter_add_(1, flat, torch.ones_like(flat))

    def compute(self, over_workers: bool = False) -> dict[str, torch.Tensor]:
        """Return the usage statistics of each level, float64 [K].

        Args:
            over_workers: count the codes of all workers together; every worker must call it.

        Returns:
            'usage': fraction of the entries that occur; 'perplexity': of the entries' frequencies,
            between 1 and `bins`; 'frames': number of codes counted. All are 0 for a level without
            codes.
        """
        counts = self.counts.clone()
        if over_workers:
            distrib.all_reduce_sum_([counts])
        counts = counts.cpu()  # not every device has float64
        frames = counts.sum(1).double()
        frequencies = counts.double() / frames.clamp(min=1)[:, None]
        perplexity = torch.special.entr(frequencies).sum(1).exp()
        return {
            'usage': (counts > 0).double().mean(1),
            'perplexity': perplexity.where(frames > 0, 0),
            'frames': frames,
        }
