"""From waveforms to streams and back, with a model."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from audiocodec.bitstream.header import NO_HASH, Header
from audiocodec.bitstream.packets import Packet
from audiocodec.bitstream.reader import BitstreamReader
from audiocodec.bitstream.tables import Tables
from audiocodec.bitstream.writer import BitstreamWriter
from audiocodec.models import CompressionModel
from audiocodec.models.fingerprint import fingerprint
from audiocodec.models.segments import Segments

PACKET_SECONDS = 1.0
_FADE = 0.005  # seconds, at the borders of silence


def hash_of(model: CompressionModel) -> bytes:
    """Return eight bytes that identify the weights of a model, see `models.fingerprint`."""
    return bytes.fromhex(fingerprint(model))


def describe(
    model: CompressionModel,
    tables: Tables | None = None,
    packet_seconds: float = PACKET_SECONDS,
    name: str = '',
) -> Header:
    """Return the header of a stream of a model, with the codebooks in use.

    Args:
        model: the model that encodes, not yet changed by `for_cpu`.
        tables: for entropy coding; None: codes of a fixed width.
        packet_seconds: duration of a packet: what a damaged byte costs. A packet needs 14 bytes
            more than its codes. Models with segments have one in each packet.
        name: what to call the model.

    Raises:
        ValueError: the model has no codebooks, a packet would be too long, or the tables were
            fitted to another model.
    """
    if model.cardinality == 0:
        raise ValueError('this model is a continuous autoencoder: it has no codes to write')
    model_hash = hash_of(model)
    if tables is not None and tables.model_hash != model_hash:
        raise ValueError(
            f'the tables were fitted to the model {tables.model_hash.hex()}, this one is '
            f'{model_hash.hex()}: fit them again with `audiocodec tables`, or encode without'
        )
    frames, stride = _packet_size(model, packet_seconds)
    return Header(
        sample_rate=model.sample_rate,
        channels=model.channels,
        hop_length=model.hop_length,
        num_codebooks=model.num_codebooks,
        cardinality=model.cardinality,
        frames_per_packet=frames,
        stride=stride,
        renormalized=getattr(model, 'renormalize', False),
        model_hash=model_hash,
        tables_hash=NO_HASH if tables is None else tables.hash,
        model=name,
    )


def _packet_size(model: CompressionModel, seconds: float) -> tuple[int, int]:
    """Return frames of a packet, and samples from the start of one to that of the next."""
    if not 0 < seconds < math.inf:
        raise ValueError(f'packets of {seconds} seconds: expected more than 0')
    segments = segments_of(model)
    if segments is None:
        frames = max(1, round(seconds * model.frame_rate))
        return frames, frames * model.hop_length
    return segments.frames(segments.length)[0], segments.stride


def check_model(header: Header, model: CompressionModel) -> None:
    """Raise a ValueError if a model is not the one that encoded a stream.

    Args:
        header: that of the stream.
        model: not yet changed by `for_cpu`.
    """
    found = hash_of(model)
    if found != header.model_hash:
        called = f', which the encoder called {header.model!r}' if header.model else ''
        raise ValueError(
            f'the stream was encoded by the model {header.model_hash.hex()}{called}; this one is '
            f'{found.hex()}: use the same weights'
        )


def segments_of(model: CompressionModel) -> Segments | None:
    """Return the segments that a model divides recordings into, if any."""
    found = getattr(model, 'segments', None)
    assert found is None or isinstance(found, Segments), type(found)
    return found


def encode(model: CompressionModel, wav: torch.Tensor, writer: BitstreamWriter) -> None:
    """Encode a whole waveform.

    Args:
        model: the model of the writer's header, or its `for_cpu`, with the same codebooks in use.
        wav: [C, T] or [1, C, T] at the model's sample rate.
        writer: gets the codes and the end.

    Raises:
        ValueError: wrong shape, or the model has other scales than one per item or segment.
    """
    wav = wav[None] if wav.dim() == 2 else wav
    codes, scale = model.encode(wav)
    samples = wav.shape[-1]
    size = writer.header.frames_per_packet
    segments = segments_of(model)
    if segments is None:
        parts = list(codes.split(size, dim=-1))
    else:
        parts = list(codes.split(segments.frames(samples), dim=-1))
    if scale is not None and not writer.header.renormalized:
        raise ValueError(
            f'{type(model).__name__} has scales that no packet can take: only models with one per '
            'item or segment can be written'
        )
    for part, factor in zip(parts, _scales(scale, len(parts), segments is None)):
        writer.write_packet(part, factor)
    writer.finish(samples)


def _scales(scale: torch.Tensor | None, packets: int, whole: bool) -> list[float | None]:
    """Return the scale of each packet, given that of the item, or those of its segments."""
    if scale is None:
        return [None] * packets
    if whole and scale.shape[1] == 1:
        scale = scale.expand(1, packets)
    if scale.shape[1] != packets:
        raise ValueError(
            f'the model has {scale.shape[1]} scales for {packets} packets: only models with one '
            'per item or segment can be written'
        )
    scales: list[float | None] = scale[0].tolist()
    return scales


def encode_live(
    model: CompressionModel, wavs: Iterable[torch.Tensor], writer: BitstreamWriter
) -> None:
    """Encode a waveform while it arrives; every packet is written as soon as it is complete.

    Args:
        model: a causal model, or its `for_cpu`, as for `encode`.
        wavs: consecutive parts, [C, T] each, of any lengths.
        writer: gets the codes and the end.

    Raises:
        ValueError: the model needs the whole signal.
    """
    encoder = model.streaming_encoder()
    samples = 0
    for wav in wavs:
        writer.write(encoder.push(wav[None]))
        samples += wav.shape[-1]
    writer.write(encoder.flush())
    writer.finish(samples)


class Decoded(NamedTuple):
    """A decoded stream.

    Attributes:
        wav: [C, T] at the model's output sample rate.
        lost: seconds of silence in place of what was lost.
    """

    wav: torch.Tensor
    lost: float


def decode(
    model: CompressionModel, reader: BitstreamReader, tables: Tables | None = None
) -> Decoded:
    """Decode a stream to its end; what was lost is silent.

    Args:
        model: see `check_model`; or its `for_cpu`.
        reader: the stream; `reader.damage` then says what was wrong.
        tables: those of the header.

    Raises:
        ValueError: other tables, or nothing to decode.
    """
    packets = list(reader.packets(tables))
    if all(packet.lost for packet in packets):
        raise ValueError(f'the stream has no packets to decode ({reader.damage})')
    codes = torch.cat([torch.from_numpy(packet.codes) for packet in packets], dim=1)[None]
    device = next(model.parameters()).device
    with torch.no_grad():
        wav = model.decode(codes.to(device), _scale(model, packets, device))[0]
    wav, lost = _with_silence(model, reader, packets, wav)
    return Decoded(wav, lost)


def _with_silence(
    model: CompressionModel, reader: BitstreamReader, packets: Sequence[Packet], wav: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Cut a waveform to its length and silence what was lost; returns its duration, too."""
    header = reader.header
    ratio = model.output_sample_rate / header.sample_rate
    if reader.samples is not None:
        left = reader.samples - packets[0].number * header.stride  # after `seek`, not all
        wav = wav[..., : math.ceil(left * ratio)]
    lost = 0.0
    for packet in packets:
        if packet.lost:
            start = (packet.number - packets[0].number) * header.stride
            end = start + min(header.stride, packet.codes.shape[1] * header.hop_length)
            part = wav[..., math.ceil(start * ratio) : math.ceil(end * ratio)]
            lost += part.shape[-1] / model.output_sample_rate
            if not (header.renormalized and segments_of(model)):  # else silent by its scale
                _silence(part, round(_FADE * model.output_sample_rate))
    return wav, lost


def _scale(
    model: CompressionModel, packets: list[Packet], device: torch.device
) -> torch.Tensor | None:
    """Return the scales for `model.decode`, [1, 1] or [1, segments]."""
    if packets[0].scale is None:
        return None
    scales = [packet.scale for packet in packets]
    if segments_of(model) is None:
        scales = [next(packet.scale for packet in packets if not packet.lost)]
    return torch.tensor([scales], device=device)


def _silence(part: torch.Tensor, fade: int) -> None:
    """Silence a part [C, T] in place, with a fade at both borders, so that they do not click."""
    fade = min(fade, part.shape[-1] // 2)
    ramp = torch.arange(fade, 0, -1, device=part.device) / (fade + 1)
    gain = torch.zeros_like(part[0])
    gain[:fade] = ramp
    gain[len(gain) - fade :] = ramp.flip(0)
    part *= gain
