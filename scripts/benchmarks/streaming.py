"""Encoding and decoding in chunks, against the whole signal and against other packages."""

import argparse
import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from audiocodec.models import CompressionModel
from benchmarks import codec
from benchmarks.common import (
    Stopwatch,
    apart,
    in_turn,
    peak_bytes,
    ratio,
    resting_bytes,
    summary,
)

HELP = 'encode and decode in chunks, and compare the result for random chunks with the whole'
DEFAULTS = {'threads': 1, 'steps': 5}
_RATE = 24000
_FITTED = 40 * _RATE  # samples whose latents codebooks are made of
# peers that encode and decode the whole signal, or chunks
_WHOLE, _CHUNKS = {'encodec': 'encodec'}, {'mimi': 'transformers'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the codec, the lengths of signal and chunks, and the random chunks."""
    parser.add_argument('--family', choices=('encodec', 'mimi', 'small'), default='encodec')
    parser.add_argument('--seconds', type=float, default=10.0, help='of audio that is timed')
    parser.add_argument('--chunk', type=int, default=1920, help='samples of a chunk; 80 ms')
    parser.add_argument('--codebooks', type=int, default=8, help='in use')
    parser.add_argument('--peers', type=int, default=1, choices=(0, 1), help='0: without others')
    parser.add_argument('--chunkings', type=int, default=0, help='random divisions to compare')
    parser.add_argument('--clip', type=float, default=2.0, help='seconds of a recording for them')
    parser.add_argument('--minutes', type=int, default=0, help='only memory, for such a long file')
    parser.add_argument('--model', help='a trained model, instead of random weights')
    parser.add_argument('--source', type=Path, help='recordings for them; default: the examples')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the whole, chunks, and frames; then compare random divisions with the whole."""
    args.batch, args.layout = 1, 'plain'
    torch.manual_seed(0)  # of the random weights
    plain = CompressionModel.get_pretrained(args.model) if args.model else codec.make_model(args)
    plain.set_num_codebooks(args.codebooks)
    if args.minutes:
        return _long(plain, args.minutes)
    result: dict[str, Any] = {}
    if args.chunkings:
        result = {'comparison': _compared(plain, args)}
    wav = codec._noise(args)
    functions = _ours(plain, wav, args.chunk)
    peers = dict(sorted({**_WHOLE, **_CHUNKS}.items())) if args.peers else {}
    with ExitStack() as stack, torch.inference_mode():
        if args.family in peers:
            functions['peer'] = stack.enter_context(apart(make_peer, args))
        times = in_turn(functions, args.steps, args.warmup, args.device)
    result = {**summary(times), 'peak_bytes': peak_bytes(args.device), **result}
    result['real_time'] = {
        name: round(1000 * args.seconds / median, 2) for name, median in result['ms'].items()
    }
    result['ratio'] = {
        f'{name} to streaming': ratio(times[name], times['streaming'])
        for name in times
        if name != 'streaming'
    }
    return result


def _long(model: Any, minutes: int) -> dict[str, Any]:
    """Encode and decode a long file in chunks of ten seconds, and measure the memory."""
    chunks = (0.1 * torch.randn(1, 1, 10 * _RATE) for _ in range(6 * minutes))
    before, watch = resting_bytes(), Stopwatch()
    with watch.measure('total'):
        samples = sum(wav.shape[-1] for wav in model.decode_long(model.encode_long(chunks)))
    assert samples == 60 * minutes * _RATE
    peak = peak_bytes()
    return {**summary(watch.times), 'peak_bytes': peak, 'working_bytes': peak - before}


def _ours(model: Any, wav: torch.Tensor, chunk: int) -> dict[str, Callable[[], Any]]:
    fast = model.for_cpu()
    codes, _ = fast.encode(wav)
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    hop = model.hop_length

    def whole() -> None:
        fast.decode(fast.encode(wav)[0])

    def chunks(size: int) -> None:
        for piece in wav.split(size, dim=-1):
            encoder.push(piece)
        encoder.flush()
        for piece in codes.split(size // hop, dim=-1):
            decoder.push(piece)
        decoder.flush()

    return {
        'whole': whole,
        'streaming': lambda: chunks(chunk // hop * hop),
        'frames': lambda: chunks(hop),
    }


def make_peer(args: argparse.Namespace) -> Callable[[], Any]:
    """Return a function that encodes and decodes the same signal with another package."""
    if args.family in _WHOLE:
        return codec.make_peer(_WHOLE[args.family], args)
    import transformers

    wav = codec._noise(args)
    model: Any = transformers.MimiModel(transformers.MimiConfig()).eval()
    for name, buffer in model.named_buffers():
        if name.endswith('embed_sum'):
            buffer.normal_()

    @torch.inference_mode()
    def chunks() -> None:
        past, padding, found = None, None, []
        for piece in wav.split(args.chunk, dim=-1):
            encoded = model.encode(
                piece,
                num_quantizers=args.codebooks,
                encoder_cache=past,
                padding_cache=padding,
                use_streaming=True,
            )
            past, padding = encoded.encoder_cache, encoded.padding_cache
            found.append(encoded.audio_codes)
        past = None  # its convolutions remember nothing: the borders of chunks are audible
        for codes in found:
            past = model.decode(codes, decoder_cache=past, use_cache=True).decoder_cache

    return chunks


@torch.no_grad()
def _compared(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Divide recordings at random and compare codes and waveforms with those of the whole."""
    clips = list(_clips(args))
    if args.model is None:
        _fit(model, clips)
    size = int(args.clip * _RATE)
    clips = [clip[..., :size] for clip in clips[: max(1, args.chunkings // 10)]]
    whole, rounding, precise, fast = [], 0.0, copy.deepcopy(model).double(), model.for_cpu()
    of_cpu, every = 0, 0
    for clip in clips:
        codes, _ = model.encode(clip)
        of_cpu += int((fast.encode(clip)[0] != codes).sum())
        every += codes.numel()
        whole.append((clip, codes, model.decode(codes), model.encode_latent(clip)[0]))
        rounding = max(rounding, _difference(precise.decode(codes), whole[-1][2]))
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    draw = random.Random(0)
    different, ties, worst, total = 0, 0.0, 0.0, 0
    for index in range(args.chunkings):
        clip, codes, wav, latents = whole[index % len(whole)]
        found = _in_chunks(encoder, clip, draw, model.hop_length)
        total += codes.numel()
        if not torch.equal(found, codes):
            different += int((found != codes).sum())
            tie = model.quantizer.rounding_ties(latents, codes, found)
            ties = max(ties, float('inf') if tie is None else tie)
        back = _in_chunks(decoder, codes, draw, 1)
        worst = max(worst, _difference(back, wav))
    return {
        'chunkings': args.chunkings,
        'codes': total,
        'codes_different': round(different / total, 6),
        'codes_different_for_cpu': round(of_cpu / every, 6),  # of the whole, by other kernels
        'widest_tie': round(ties, 3),
        'largest_difference': worst,
        'largest_rounding': rounding,  # of the whole, against double precision
    }


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the peak."""
    return float((found - expected).abs().max() / expected.abs().max())


def _clips(args: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Yield recordings [1, 1, T] of at least two seconds."""
    from audiocodec.data import load_source, read_segment
    from audiocodec.utils import paths

    metas = load_source(args.source or paths.ROOT / 'dataset' / 'example' / 'train')
    metas = [meta for meta in metas if meta.duration > 2.1]
    for meta in metas[:: max(1, len(metas) // 40)]:
        frames = int(min(meta.duration - 0.05, 10) * _RATE)
        yield read_segment(meta.path, 0, frames, _RATE, 1)[None]


def _fit(model: Any, clips: list[torch.Tensor]) -> None:
    """Make codebooks of random latents, each of the residuals of those before."""
    latents = model.encode_latent(torch.cat(clips, dim=-1)[..., :_FITTED])[0]
    model.quantizer.train()
    model.quantizer(latents, model.frame_rate)
    model.quantizer.eval()


def _in_chunks(stream: Any, values: torch.Tensor, draw: random.Random, frame: int) -> torch.Tensor:
    """Return what comes out of a stream for random chunks, up to a random length."""
    most = frame * 2 ** draw.uniform(-4 if frame > 1 else 0, 6)
    found, start = [], 0
    while start < values.shape[-1]:
        size = draw.randint(1, max(1, int(most)))
        found.append(stream.push(values[..., start : start + size]))
        start += size
    return torch.cat([*found, stream.flush()], dim=-1)
