"""Statistics of the codes of a codec over all items: use, entropy, entropy-coded bit rate."""

from collections import Counter
from typing import Any

import numpy as np
import torch

from audiocodec.quantization import CodeUsage


class TokenStatistics:
    """Counts codes, and pairs of consecutive codes of a level.

    Args:
        levels: number of codebooks K.
        bins: entries per codebook.
        frame_rate: frames per second, Hz.
    """

    def __init__(self, levels: int, bins: int, frame_rate: float) -> None:
        self.bins = bins
        self.frame_rate = frame_rate
        self._usage = CodeUsage(levels, bins)
        # for each level: how often a code follows another, by before * bins + code
        self._pairs: list[Counter[int]] = [Counter() for _ in range(levels)]

    def add(self, codes: np.ndarray) -> None:
        """Count the codes [K, T] of an item."""
        codes = codes.astype(np.int64)
        self._usage.add(torch.from_numpy(codes)[None])
        for pairs, row in zip(self._pairs, codes):
            values, counts = np.unique(row[:-1] * self.bins + row[1:], return_counts=True)
            pairs.update(dict(zip(values.tolist(), counts.tolist())))

    def compute(self, levels: int) -> dict[str, Any]:
        """Return the statistics of the first levels.

        Returns:
            `frames`; for each level, `usage`, `perplexity`, `entropy` and `conditional_entropy`
            given the same level a frame before, both in bits; and the bit rates, kbps, of an ideal
            entropy coder that knows these frequencies: `entropy_kbps`, `conditional_kbps`. With few
            frames, entropies are too low: the codes are told apart by chance.
        """
        usage = {name: values[:levels] for name, values in self._usage.compute().items()}
        entropy = usage['perplexity'].log2().tolist()
        conditional = [self._conditional_entropy(pairs) for pairs in self._pairs[:levels]]
        return {
            'frames': int(usage['frames'][0]),
            'entropy_kbps': sum(entropy) * self.frame_rate / 1000,
            'conditional_kbps': sum(conditional) * self.frame_rate / 1000,
            'usage': usage['usage'].tolist(),
            'perplexity': usage['perplexity'].tolist(),
            'entropy': entropy,
            'conditional_entropy': conditional,
        }

    def _conditional_entropy(self, pairs: Counter[int]) -> float:
        """Return H(code | before) = H(before, code) - H(before), in bits."""
        before: Counter[int] = Counter()
        for pair, count in pairs.items():
            before[pair // self.bins] += count
        return _entropy(pairs) - _entropy(before)


def _entropy(counts: Counter[int]) -> float:
    """Return the entropy of frequencies, in bits."""
    shares = np.array(list(counts.values()), dtype=np.float64)
    shares /= max(1.0, shares.sum())
    return float(-(shares * np.log2(shares)).sum())
