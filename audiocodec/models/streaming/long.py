"""Encoding and decoding of files of any length, in chunks or segments."""

import copy
from collections.abc import Iterable, Iterator, Sequence

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.segments import Segments
from audiocodec.models.streaming.coder import StreamingDecoder, StreamingEncoder
from audiocodec.models.streaming.interface import Coded


def encode_long(model: CompressionModel, wav: torch.Tensor, chunk_seconds: float) -> Coded:
    """See `CompressionModel.encode_long`."""
    wav = model.check_wav(wav)
    size = _size(chunk_seconds * model.sample_rate)
    return joined(encoded(model, wav.split(size, dim=-1)))


def decode_long(
    model: CompressionModel,
    codes: torch.Tensor,
    scale: torch.Tensor | None,
    chunk_seconds: float,
) -> torch.Tensor:
    """See `CompressionModel.decode_long`."""
    codes = model.check_codes(codes)
    segments = getattr(model, 'segments', None)
    hop = model.hop_length * model.output_sample_rate // model.sample_rate
    if segments is None:
        parts = codes.split(_size(chunk_seconds * model.frame_rate), dim=-1)
        samples = codes.shape[-1] * hop
    else:
        parts = codes.split(segments.split(codes.shape[-1]), dim=-1)
        samples = segments.stride * (len(parts) - 1) + parts[-1].shape[-1] * hop
    scales: Sequence[torch.Tensor | None] = [None] * len(parts)
    if scale is not None:
        scales = scale.split(1, dim=-1)
        if segments is None or scale.shape != (len(codes), len(parts)):
            raise ValueError(
                f'scale has shape {list(scale.shape)}: expected one per segment, '
                f'[{len(codes)}, {len(parts)}], from a model that renormalizes'
            )
    wav, start = None, 0
    for piece in decoded(model, zip(parts, scales)):
        if wav is None:
            wav = piece.new_empty(*piece.shape[:2], samples)
        wav[..., start : start + piece.shape[-1]] = piece
        start += piece.shape[-1]
    assert wav is not None
    assert start == samples, (start, samples)
    return wav


def joined(parts: Iterable[Coded]) -> Coded:
    """Concatenate what `encoded` yields: codes [B, K, T] and scale."""
    codes, scales = zip(*parts)
    scale = None if scales[0] is None else torch.cat(scales, dim=-1)
    return torch.cat(codes, dim=-1), scale


def takes_parts(model: CompressionModel) -> bool:
    """True if `encoded` takes the signal in parts, False if the model needs the whole."""
    if isinstance(model, EncodecModel) and model.segments is not None:
        return True
    try:
        StreamingEncoder(model, 1)
    except ValueError:
        return False
    return True


def _size(number: float) -> int:
    if not number >= 1:
        raise ValueError('chunk_seconds is less than a frame: choose a longer one, such as 10')
    return int(number)


def encoded(model: CompressionModel, chunks: Iterable[torch.Tensor]) -> Iterator[Coded]:
    """Yield codes [B, K, n] and scale of the next frames of waveforms [B, C, T] in chunks.

    With segments, each result is a segment.

    Raises:
        ValueError: the model needs the whole signal.
    """
    if isinstance(model, EncodecModel) and model.segments is not None:
        whole = _whole(model)
        for segment in _segments(model.segments, chunks):
            yield whole.encode(segment)
        return
    encoder = None
    for chunk in chunks:
        encoder = encoder or StreamingEncoder(model, len(chunk))
        codes = encoder.push(chunk)
        if codes.shape[-1]:
            yield codes, None
    if encoder is not None:
        codes = encoder.flush()
        if codes.shape[-1]:
            yield codes, None


@torch.no_grad()
def decoded(model: CompressionModel, chunks: Iterable[Coded]) -> Iterator[torch.Tensor]:
    """Yield waveforms [B, C, T] of the next codes and scales, as `encoded` yields them.

    Raises:
        ValueError: the model needs the whole signal.
    """
    if isinstance(model, EncodecModel) and model.segments is not None:
        whole = _whole(model)
        yield from model.segments.joined(whole.decode(*chunk) for chunk in chunks)
        return
    decoder = None
    for codes, _ in chunks:
        decoder = decoder or StreamingDecoder(model, len(codes))
        wav = decoder.push(codes)
        if wav.shape[-1]:
            yield wav
    if decoder is not None:
        wav = decoder.flush()
        if wav.shape[-1]:
            yield wav


def _whole(model: EncodecModel) -> EncodecModel:
    """Return the model of a single segment, with the same weights."""
    whole = copy.copy(model)
    whole.segments = None
    return whole


def _segments(segments: Segments, chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the segments of waveforms [B, C, T] in chunks, as `Segments.cut` gives them."""
    rest: torch.Tensor | None = None
    for chunk in chunks:
        rest = chunk if rest is None else torch.cat([rest, chunk], dim=-1)
        while rest.shape[-1] >= segments.length:
            yield rest[..., : segments.length]
            rest = rest[..., segments.stride :]
    if rest is not None:
        yield from segments.cut(rest)
