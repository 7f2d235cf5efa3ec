"""Statistics of the codes of a codec over all items: use, entropy, entropy-coded bit rate."""

from typing import Any

import numpy as np


class TokenStatistics:
    """Counts codes, and pairs of consecutive codes of a level.

    Args:
        bins: entries per codebook.
        frame_rate: frames per second, Hz.
    """

    def __init__(self, bins: int, frame_rate: float) -> None:
        self.bins = bins
        self.frame_rate = frame_rate
        self.counts: list[np.ndarray] = []  # of each level
        self._pairs: list[list[np.ndarray]] = []  # of each level: distinct codes of each item

    def add(self, codes: np.ndarray) -> None:
        """Count the codes [K, T] of an item."""
        for level, row in enumerate(codes.astype(np.int64)):
            if level == len(self.counts):
                self.counts.append(np.zeros(self.bins, dtype=np.int64))
                self._pairs.append([])
            self.counts[level] += np.bincount(row, minlength=self.bins)
            self._pairs[level].append(row[:-1] * self.bins + row[1:])

    def compute(self, levels: int) -> dict[str, Any]:
        """Return the statistics of the first levels.

        Returns:
            `frames`; for each level, `usage`, `perplexity`, `entropy` and `conditional_entropy`
            given the same level a frame before, both in bits; and the bit rates, kbps, of an ideal
            entropy coder that knows these frequencies: `entropy_kbps`, `conditional_kbps`. With few
            frames, entropies are too low: the codes are told apart by chance.
        """
        rows = [self._level(level) for level in range(levels)]
        kbps = {
            f'{name}_kbps': sum(row[key] for row in rows) * self.frame_rate / 1000
            for name, key in (('entropy', 'entropy'), ('conditional', 'conditional_entropy'))
        }
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {'frames': int(self.counts[0].sum()), **kbps, **columns}

    def _level(self, level: int) -> dict[str, float]:
        counts = self.counts[level]
        entropy = _entropy(counts)
        pairs = np.concatenate(self._pairs[level])
        # H(code | before) = H(before, code) - H(before)
        before = np.bincount(pairs // self.bins, minlength=self.bins)
        joint = np.unique(pairs, return_counts=True)[1]
        return {
            'usage': float((counts > 0).mean()),
            'perplexity': float(2**entropy),
            'entropy': entropy,
            'conditional_entropy': _entropy(joint) - _entropy(before),
        }


def _entropy(counts: np.ndarray) -> float:
    """Return the entropy of frequencies, in bits."""
    positive = counts[counts > 0] / max(1, counts.sum())
    return float(-(positive * np.log2(positive)).sum())
