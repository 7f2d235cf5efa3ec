"""The certificate: what was compared, what was found, latency, receptive field and speed."""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.certificate import ways
from audiocodec.models.certificate.clicks import clicks
from audiocodec.models.certificate.clips import Clips
from audiocodec.models.certificate.comparison import Comparison
from audiocodec.models.certificate.ways import Whole
from audiocodec.models.description import model_rows
from audiocodec.utils import files

CHUNK_SECONDS = 0.5
PIECE_SECONDS = 0.08  # of a stream whose speed is measured
_STREAMS = 5  # random divisions of each clip into pieces


@dataclass
class Certificate:
    """What was found; see `certify`.

    Attributes:
        source: name of the model.
        audio: origin of the audio.
        clips: name and length of each clip.
        kbps: bit rate of the codes that were compared.
        comparisons: by the way of computing.
        impossible: why the model cannot be computed in a way.
        facts: sizes, rates, receptive field and latency.
        speeds: seconds of audio per second of computing, of one thread.
        clicks: RMS differences of waveforms at the borders of chunks and elsewhere, dB.
    """

    source: str
    audio: str
    clips: list[str]
    kbps: float = 0.0
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)
    facts: list[tuple[str, str]] = field(default_factory=list)
    speeds: dict[str, float] = field(default_factory=dict)
    clicks: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True if all comparisons did."""
        return all(found.passed for found in self.comparisons.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as JSON."""
        return {**asdict(self), 'passed': self.passed, 'torch': str(torch.__version__)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON."""
        files.write_bytes(Path(path), (json.dumps(self.to_dict(), indent=2) + '\n').encode())

    def __str__(self) -> str:
        lines = [
            f'certificate of {self.source}: {"passed" if self.passed else "FAILED"}',
            f'  audio: {self.audio}: {", ".join(self.clips)}, at {self.kbps:.4g} kbps',
        ]
        for name, found in self.comparisons.items():
            relative = found.wav_difference / (found.wav_peak or 1.0)
            lines.append(
                f'  {name}: {"equal" if found.passed else "DIFFERENT"}. Codes: '
                f'{found.describe_codes()}. Waveform: within {relative:.1e} of its peak'
            )
            lines += [f'    note: {note}' for note in found.notes]
        lines += [f'  {name}: not possible: {why}' for name, why in self.impossible.items()]
        for name, (near, far) in self.clicks.items():
            lines.append(f'  {name}: {near:.0f} dB at the borders, {far:.0f} dB elsewhere')
        for name, speed in self.speeds.items():
            lines.append(f'  {name}: {speed:.3g} times real time on one thread')
        width = max((len(name) for name, _ in self.facts), default=0)
        lines += [f'  {name:<{width}}  {text}' for name, text in self.facts]
        return '\n'.join(lines)


def certify(model: CompressionModel, source: str, clips: Clips, brief: bool = False) -> Certificate:
    """Compute a model in all ways that it allows, and compare them with whole clips, one by one.

    Compared are a padded batch, the copies for inference and for CPUs, streams in random pieces and
    in pieces of one frame, and chunks of a long file; codes of the active codebooks, and waveforms
    decoded from the same codes.

    Args:
        model: in eval mode, on a CPU; it has codebooks.
        source: its name, for the certificate.
        clips: the audio.
        brief: compare one stream per clip only, and measure no speed.

    Raises:
        ValueError: the model has no codes.
    """
    if model.total_codebooks == 0:
        raise ValueError(f'{source} has no codes to compare: certificates are for discrete codecs')
    found = Certificate(source, clips.origin, clips.names, model.bandwidth)
    wholes = [ways.compute_whole(model, wav[None]) for wav in clips.wavs]
    for name, way in _ways(model, wholes, brief).items():
        try:
            found.comparisons[name] = way()
        except ValueError as error:
            found.impossible[name] = str(error)
    found.facts = list(model_rows(model))
    _look_for_clicks(found, model, wholes)
    if not brief:
        _measure(found, model, wholes)
    return found


def _ways(
    model: CompressionModel, wholes: list[Whole], brief: bool
) -> dict[str, Callable[[], Comparison]]:
    """Return the ways of computing a model, by name."""
    seeds = range(1 if brief else _STREAMS)
    divisions = [ways.random_cuts(model.sample_rate, seed) for seed in seeds]
    frames = [ways.equal_cuts(model.hop_length)]
    found = {
        'padded batch': lambda: ways.padded(model, wholes),
        'for_inference': lambda: ways.copied(model, wholes, model.for_inference),
        'for_cpu': lambda: ways.copied(model, wholes, model.for_cpu),
        'stream in random pieces': lambda: ways.streamed(model, wholes, divisions),
        'stream in pieces of one frame': lambda: ways.streamed(model, wholes, frames),
        f'chunks of {CHUNK_SECONDS:g} s': lambda: ways.chunked(model, wholes, CHUNK_SECONDS),
    }
    if brief:
        del found['stream in pieces of one frame']
    return found


@torch.no_grad()
def _look_for_clicks(found: Certificate, model: CompressionModel, wholes: list[Whole]) -> None:
    """Compare `decode_long` with chunks that are decoded one by one, at the borders."""
    clip = max(wholes, key=lambda whole: whole.codes.shape[-1])
    frames = max(1, int(CHUNK_SECONDS * model.frame_rate))
    total = clip.codes.shape[-1]
    samples = clip.decoded.shape[-1] * frames // total
    if model.num_scales(total) > 1 or total < 2 * frames or clip.scale is not None:
        return
    borders = range(samples, clip.decoded.shape[-1], samples)
    apart = [model.decode(part) for part in clip.codes.split(frames, dim=-1)]
    try:
        ours = model.decode_long(clip.codes, chunk_seconds=CHUNK_SECONDS)
    except ValueError:  # listed with the ways
        return
    for name, wav in (('decode_long', ours), ('chunks decoded apart', torch.cat(apart, dim=-1))):
        if wav.shape == clip.decoded.shape:
            found.clicks[f'difference of {name}'] = clicks(clip.decoded, wav, borders)


def _measure(found: Certificate, model: CompressionModel, wholes: list[Whole]) -> None:
    """Measure the speed of encoding plus decoding, whole and in pieces."""
    clip = max(wholes, key=lambda whole: whole.wav.shape[-1])
    fast = model.for_cpu()
    seconds = clip.wav.shape[-1] / model.sample_rate
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found.speeds['encode and decode'] = seconds / _duration(
            lambda: fast.decode(*fast.encode(clip.wav))
        )
        piece = max(1, round(PIECE_SECONDS * model.frame_rate)) * model.hop_length
        encoder, decoder = fast.streaming_encoder(), fast.streaming_decoder()

        def stream() -> None:
            for part in clip.wav.split(piece, dim=-1):
                decoder.push(encoder.push(part))
            decoder.push(encoder.flush())
            decoder.flush()

        name = f'stream in pieces of {1000 * piece / model.sample_rate:.0f} ms'
        found.speeds[name] = seconds / _duration(stream)
    except ValueError:  # listed with the ways
        pass
    finally:
        torch.set_num_threads(threads)


def _duration(function: Callable[[], Any], repeats: int = 3) -> float:
    """Return the median time of a function in seconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
