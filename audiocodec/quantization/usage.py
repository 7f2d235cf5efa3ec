"""Codebook usage, counted from the codes of a data set."""

import torch

from audiocodec.utils import distrib


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
