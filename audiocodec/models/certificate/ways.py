"""Ways of computing a model, each compared with its codes and waveforms of whole clips."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.certificate.comparison import Comparison, encode_with_latents

Cuts = Callable[[int], Iterable[int]]

_SEED = 0
_LONGEST = 0.5  # seconds of a random piece


@dataclass
class Whole:
    """Result for a whole clip, with which others are compared.

    Attributes:
        wav: the clip, [1, C, T].
        latents: before the quantizer, [1, D, T_frames]; None if the model does not tell.
        codes: [1, K, T_frames].
        scale: as from `encode`.
        decoded: waveform of codes and scale, [1, C, T'].
    """

    wav: torch.Tensor
    latents: torch.Tensor | None
    codes: torch.Tensor
    scale: torch.Tensor | None
    decoded: torch.Tensor


@torch.no_grad()
def compute_whole(model: CompressionModel, wav: torch.Tensor) -> Whole:
    """Encode and decode a clip [1, C, T] at once, with the active codebooks.

    Raises:
        ValueError: the encoder's output contains NaN or Inf, of which all ways make the same codes.
    """
    latents, codes, scale = encode_with_latents(model, wav)
    if latents is not None and not latents.isfinite().all():
        raise ValueError(
            'the output of the encoder contains NaN or Inf: a model with such weights is broken'
        )
    return Whole(wav, latents, codes, scale, model.decode(codes, scale))


@torch.no_grad()
def padded(model: CompressionModel, clips: list[Whole]) -> Comparison:
    """Encode and decode the clips as one padded batch, with noise as padding."""
    comparison = Comparison()
    lengths = [clip.wav.shape[-1] for clip in clips]
    generator = torch.Generator().manual_seed(_SEED)
    batch = torch.randn(len(clips), model.channels, max(lengths), generator=generator) * 0.1
    for item, clip in zip(batch, clips):
        item[:, : clip.wav.shape[-1]] = clip.wav[0]
    codes, scale = model.encode(batch, lengths)
    frames = [clip.codes.shape[-1] for clip in clips]
    wavs = model.decode(codes, scale, frames)
    for index, clip in enumerate(clips):
        found = codes[index : index + 1, :, : frames[index]]
        comparison.add_codes(model, clip.latents, clip.codes, found)
        comparison.add_wavs(clip.decoded, wavs[index : index + 1, :, : clip.decoded.shape[-1]])
    return comparison


@torch.no_grad()
def copied(
    model: CompressionModel, clips: list[Whole], convert: Callable[[], CompressionModel]
) -> Comparison:
    """Encode and decode with a copy of the model that is computed otherwise."""
    comparison = Comparison()
    other = convert()
    other.set_num_codebooks(model.num_codebooks)
    for clip in clips:
        comparison.add_codes(model, clip.latents, clip.codes, other.encode(clip.wav)[0])
        comparison.add_wavs(clip.decoded, other.decode(clip.codes, clip.scale))
    return comparison


def streamed(model: CompressionModel, clips: list[Whole], divisions: Sequence[Cuts]) -> Comparison:
    """Encode and decode in pieces.

    Args:
        model: the model.
        clips: its results.
        divisions: functions that yield the lengths of pieces, in samples, for a number of samples.

    Raises:
        ValueError: the model needs the whole signal.
    """
    comparison = Comparison()
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    for clip, cuts in product(clips, divisions):
        pieces = clip.wav.split(list(cuts(clip.wav.shape[-1])), dim=-1)
        codes = torch.cat([*map(encoder.push, pieces), encoder.flush()], dim=-1)
        comparison.add_codes(model, clip.latents, clip.codes, codes)
        frames = clip.codes.shape[-1]
        sizes = _in_frames(cuts(frames * model.hop_length), model.hop_length, frames)
        parts = clip.codes.split(sizes, dim=-1)
        wav = torch.cat([*map(decoder.push, parts), decoder.flush()], dim=-1)
        comparison.add_wavs(clip.decoded, wav)
    return comparison


@torch.no_grad()
def chunked(model: CompressionModel, clips: list[Whole], seconds: float) -> Comparison:
    """Encode and decode by `encode_long` and `decode_long`."""
    comparison = Comparison()
    for clip in clips:
        codes, scale = model.encode_long(clip.wav, chunk_seconds=seconds)
        comparison.add_codes(model, clip.latents, clip.codes, codes)
        if clip.scale is not None and scale is not None:
            comparison.add_wavs(clip.scale, scale)
        wav = model.decode_long(clip.codes, clip.scale, chunk_seconds=seconds)
        comparison.add_wavs(clip.decoded, wav)
    return comparison


def random_cuts(sample_rate: int, seed: int) -> Cuts:
    """Return a function that yields random lengths, from one sample to half a second, of a sum.

    Their logarithms are uniform, so that many pieces are shorter than a frame.
    """

    def cuts(samples: int) -> Iterator[int]:
        generator = random.Random(f'{seed} {samples}')
        longest = max(1.0, _LONGEST * sample_rate)
        while samples > 0:
            size = min(samples, int(longest ** generator.random()))
            samples -= size
            yield size

    return cuts


def equal_cuts(size: int) -> Cuts:
    """Return a function that yields lengths of `size`, and the rest, of a sum."""

    def cuts(samples: int) -> Iterator[int]:
        for start in range(0, samples, size):
            yield min(size, samples - start)

    return cuts


def _in_frames(cuts: Iterable[int], hop_length: int, frames: int) -> list[int]:
    """Return lengths in frames of pieces given in samples; their sum is `frames`."""
    found, samples = [0], 0
    for size in cuts:
        samples += size
        found.append(min(frames, samples // hop_length))
    sizes = [stop - start for start, stop in zip(found, [*found[1:], frames])]
    return [size for size in sizes if size]
