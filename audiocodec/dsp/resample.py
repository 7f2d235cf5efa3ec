"""Resampling with julius' windowed-sinc filter, of whole signals and of segments.

With the ratio reduced to `old : new`, output sample `k * new + i` is an inner product of filter `i`
with the input around sample `k * old`. A segment is computed from the blocks that it covers plus
the reach of the filter on both sides. It equals the same part of the whole resampled signal,
without edge effects.
"""

import math
from functools import lru_cache

import julius
import torch
from torch.nn import functional as F

# defaults of julius
ZEROS = 24  # zero crossings of the sinc on each side
ROLLOFF = 0.945  # cutoff as a fraction of the lower Nyquist frequency
# largest dense kernel of one ratio, in values (16 MB); larger ones are evaluated sparsely
_MAX_KERNEL = 2**22
_MAX_SPARSE = 2**24  # largest sparse kernel (64 MB); 192001 Hz to 48000 Hz takes 10 million values


class Resampler:
    """Filter for one ratio of sample rates; use `resampler`, which caches them.

    Args:
        old: input samples per block (input rate over the greatest common divisor).
        new: output samples per block.
    """

    def __init__(self, old: int, new: int) -> None:
        self.old = old
        self.new = new
        # reach of the filter, in input samples
        self.width = math.ceil(ZEROS * old / (min(old, new) * ROLLOFF)) if old != new else 0
        self.is_sparse = new * (2 * self.width + old) > _MAX_KERNEL
        self.kernel = self._sparse_kernel() if self.is_sparse else self._dense_kernel()

    def length(self, frames: int) -> int:
        """Return the output length for `frames` input samples, rounded down."""
        return frames * self.new // self.old

    def source_range(self, start: int, frames: int, total: int) -> tuple[int, int]:
        """Return the input samples [a, b) needed for outputs [start, start + frames).

        The signal has `total` input samples.
        """
        first, last = start // self.new, -(-(start + frames) // self.new)
        return max(0, first * self.old - self.width), min(total, last * self.old + self.width)

    def segment(self, wav: torch.Tensor, start: int, frames: int) -> torch.Tensor:
        """Compute the outputs [start, start + frames) of a longer signal.

        Args:
            wav: [..., b - a], the input samples of `source_range(start, frames, total)`.
            start: first output sample, counted from the beginning of the longer signal.
            frames: number of output samples.

        Returns:
            [..., frames].
        """
        if self.old == self.new:
            return wav[..., :frames]
        first, last = start // self.new, -(-(start + frames) // self.new)
        # the signal is extended by its first and last value
        left = max(0, self.width - first * self.old)
        right = (last - first) * self.old + 2 * self.width - left - wav.shape[-1]
        flat = F.pad(wav.reshape(-1, 1, wav.shape[-1]), (left, max(0, right)), mode='replicate')
        out = self._blocks(flat, last - first)
        offset = start - first * self.new
        return out[:, offset : offset + frames].reshape(*wav.shape[:-1], frames)

    def _blocks(self, wav: torch.Tensor, blocks: int) -> torch.Tensor:
        """Map [N, 1, blocks * old + 2 * width] to [N, blocks * new]."""
        kernel = self.kernel.to(wav)
        if not self.is_sparse:
            out = F.conv1d(wav, kernel[:, None], stride=self.old)
            return out.transpose(1, 2).reshape(len(wav), -1)
        nearest = torch.arange(self.new, device=wav.device) * self.old // self.new
        taps = nearest[:, None] + torch.arange(kernel.shape[1], device=wav.device)
        return torch.cat(
            [(wav[:, 0, block * self.old :][:, taps] * kernel).sum(-1) for block in range(blocks)],
            -1,
        )

    def _dense_kernel(self) -> torch.Tensor:
        """Return the filters of julius, [new, old + 2 * width]."""
        if self.old == self.new:
            return torch.ones(1, 1)
        return julius.ResampleFrac(self.old, self.new, zeros=ZEROS, rolloff=ROLLOFF).kernel[:, 0]

    def _sparse_kernel(self) -> torch.Tensor:
        """Return the same filters without their zeros, [new, 2 * width + 1].

        Filter i begins at input i * old // new.
        """
        taps = 2 * self.width + 1
        if self.new * taps > _MAX_SPARSE:
            raise ValueError(
                f'a ratio of {self.old} to {self.new} samples needs a filter of {self.new * taps} '
                'values'
            )
        phases = torch.arange(self.new).split(max(1, 2**20 // taps))  # in parts, to limit memory
        return torch.cat([self._sparse_rows(phase) for phase in phases])

    def _sparse_rows(self, phase: torch.Tensor) -> torch.Tensor:
        fraction = (phase * self.old % self.new).double() / self.new
        # in input samples
        distance = torch.arange(-self.width, self.width + 1).double() - fraction[:, None]
        time = (distance * (min(self.old, self.new) * ROLLOFF / self.old)).clamp(-ZEROS, ZEROS)
        kernel = torch.sinc(time) * torch.cos(math.pi * time / ZEROS / 2) ** 2
        return (kernel / kernel.sum(-1, keepdim=True)).float()


@lru_cache(64)
def _cached(old: int, new: int) -> Resampler:
    return Resampler(old, new)


def resampler(from_rate: int, to_rate: int) -> Resampler:
    """Return the cached filter from one sample rate (Hz) to another.

    Raises:
        ValueError: they are not positive integers, or their ratio needs too large a filter.
    """
    for rate in (from_rate, to_rate):
        if int(rate) != rate or rate <= 0:
            raise ValueError(f'sample rates must be positive integers, in Hz; got {rate}')
    gcd = math.gcd(int(from_rate), int(to_rate))
    try:
        return _cached(int(from_rate) // gcd, int(to_rate) // gcd)
    except ValueError as error:
        raise ValueError(f'cannot resample {from_rate} Hz to {to_rate} Hz: {error}') from error


def resample(wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resample along the last dimension.

    Args:
        wav: [..., T], floating point.
        from_rate: sample rate of `wav` (Hz).
        to_rate: sample rate of the result (Hz).

    Returns:
        [..., T * to_rate // from_rate] (exact integer arithmetic), the same tensor if the rates are
        equal.
    """
    filters = resampler(from_rate, to_rate)
    frames = filters.length(wav.shape[-1])
    if filters.old == filters.new:
        return wav
    if frames == 0:
        return wav.new_zeros(*wav.shape[:-1], 0)
    return filters.segment(wav, 0, frames)
