"""Long recordings in segments of fixed length that overlap a little, each encoded on its own."""

import bisect
from collections.abc import Sequence

import torch


class Segments:
    """Where segments start, how many frames each gives, and how they are joined again (as the 48
    kHz EnCodec does).

    A segment starts every `stride` samples while there are samples left, and takes `length`
    samples, or what is left of the recording: at an overlap of up to half a segment, the last
    segment and the one before it may be shorter. The frames of all segments stand one after the
    other.

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
                f'a segment of {length} samples holds nothing: use a longer segment_duration.'
            )
        if not 0 <= overlap < 1:
            raise ValueError(f'overlap={overlap!r}: expected a fraction of a segment, in [0, 1).')
        self.length = length
        self.stride = max(1, int((1 - overlap) * length))
        self.hop_length = hop_length

    def cut(self, wav: torch.Tensor) -> list[torch.Tensor]:
        """The segments [..., length or less] of a waveform [..., T], T >= 1: views."""
        return [
            wav[..., start : start + self.length] for start in range(0, wav.shape[-1], self.stride)
        ]

    def frames(self, samples: int) -> list[int]:
        """Frames of each segment of a waveform of so many samples."""
        return [
            -(-min(self.length, samples - start) // self.hop_length)
            for start in range(0, samples, self.stride)
        ]

    def split(self, frames: int) -> list[int]:
        """Frames of each segment, of `frames` in all: more samples never give fewer frames, so that
        the sum tells.

        A sum that no waveform gives, which codes that were generated may have, is taken as the end
        of the next one.
        """
        # frames * hop_length samples give at least as many frames
        lengths = range(1, frames * self.hop_length + 1)
        samples = lengths[
            bisect.bisect_left(lengths, frames, key=lambda length: sum(self.frames(length)))
        ]
        sizes = self.frames(samples)
        sizes[-1] -= sum(sizes) - frames
        return [size for size in sizes if size]

    def join(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Add up segments [..., T_n] where they lie, with weights that rise and fall linearly where
        they overlap.

        Returns:
            [..., T], up to the end of the last segment.
        """
        if len(wavs) == 1:
            return wavs[0]
        total = self.stride * (len(wavs) - 1) + wavs[-1].shape[-1]
        rising = torch.arange(1, wavs[0].shape[-1] + 1, device=wavs[0].device) / (
            wavs[0].shape[-1] + 1
        )
        weight = torch.minimum(rising, 1 - rising).to(wavs[0].dtype)
        joined = wavs[0].new_zeros(*wavs[0].shape[:-1], total)
        weights = weight.new_zeros(total)
        for index, wav in enumerate(wavs):
            start = index * self.stride
            size = min(
                wav.shape[-1], total - start
            )  # the last but one may end after the last, in padding
            joined[..., start : start + size] += wav[..., :size] * weight[:size]
            weights[start : start + size] += weight[:size]
        return joined / weights
