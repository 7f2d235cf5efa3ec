"""Overlapping segments of fixed length, each encoded independently, for long recordings."""

import bisect
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn import functional as F


class Segments:
    """Division of a waveform into segments, and their overlap-add, as in the 48 kHz EnCodec.

    A segment starts every `stride` samples while there are samples left. It has `length` samples,
    or what is left of the recording: with an overlap of up to half a segment, the last two segments
    may be shorter. The frames of all segments are concatenated.

    Args:
        length: samples in a segment.
        overlap: fraction of a segment that the next one repeats, in [0, 1).
        hop_length: samples per frame.

    Raises:
        ValueError: a length or an overlap out of range.
    """

    def __init__(self, length: int, overlap: float, hop_length: int) -> None:
        if length < 1:
            raise ValueError(
                f'a segment of {length} samples is empty: use a longer segment_duration'
            )
        if not 0 <= overlap < 1:
            raise ValueError(f'overlap={overlap!r}: expected a fraction of a segment, in [0, 1)')
        self.length = length
        self.stride = max(1, int((1 - overlap) * length))
        self.hop_length = hop_length

    def cut(self, wav: torch.Tensor) -> list[torch.Tensor]:
        """Cut a waveform [..., T], T >= 1, into segments [..., length or less], as views."""
        return [
            wav[..., start : start + self.length] for start in range(0, wav.shape[-1], self.stride)
        ]

    def sizes(self, samples: int) -> list[int]:
        """Return the number of samples of each segment of a waveform."""
        return [min(self.length, samples - start) for start in range(0, samples, self.stride)]

    def frames(self, samples: int) -> list[int]:
        """Return the number of frames of each segment of a waveform."""
        return [-(-size // self.hop_length) for size in self.sizes(samples)]

    def split(self, frames: int) -> list[int]:
        """Return the number of frames of each segment, given their sum.

        The sum determines them, because more samples never have fewer frames. Generated codes may
        have a sum that no waveform has: then the last segment of the next longer one is shortened.
        """
        # frames * hop_length samples have at least as many frames
        lengths = range(1, frames * self.hop_length + 1)
        samples = lengths[
            bisect.bisect_left(lengths, frames, key=lambda length: sum(self.frames(length)))
        ]
        sizes = self.frames(samples)
        sizes[-1] -= sum(sizes) - frames
        return [size for size in sizes if size]

    def join(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Overlap-add segments [..., T_n], with triangular weights.

        Returns:
            [..., T], up to the end of the last segment.
        """
        return torch.cat(list(self.joined(wavs)), dim=-1)

    def joined(self, wavs: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield what `join` returns in pieces, each as soon as no later segment changes it."""
        sums = weights = weight = torch.empty(0)
        size = number = 0
        for wav in wavs:
            if number == 0:
                weight = _triangle(wav)
                sums, weights = torch.zeros_like(wav), torch.zeros_like(weight)
            else:
                yield sums[..., : self.stride] / weights[: self.stride]
                more = (0, self.stride)
                sums = F.pad(sums[..., self.stride :], more)
                weights = F.pad(weights[self.stride :], more)
            size = wav.shape[-1]
            sums[..., :size] += wav * weight[:size]
            weights[:size] += weight[:size]
            number += 1
        if number:
            # the last but one may end after the last: the rest is padding
            yield wav if number == 1 else sums[..., :size] / weights[:size]


def _triangle(wav: torch.Tensor) -> torch.Tensor:
    """Return the weights of the samples of a segment [..., T], [T]."""
    size = wav.shape[-1]
    rising = torch.arange(1, size + 1, device=wav.device) / (size + 1)
    return torch.minimum(rising, 1 - rising).to(wav.dtype)
