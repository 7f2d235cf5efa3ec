"""What was written, held against the model it was made of, on audio: the same codes, the same
waveforms.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.utils import paths

# Largest difference of waveforms that passes: of full scale, or of the loudest sample where that is
# more.
WAV_TOLERANCE = 1e-4
# Rounding that may decide between two nearly equal distances: of the latents, relative to the
# largest of them (sums of thousands of products in another order), and of the squared distances,
# relative to the longest vector's (a sum of a hundred products: some ten units of float32's
# spacing).
LATENT_ROUNDING = 1e-5
DISTANCE_ROUNDING = 32 * torch.finfo(torch.float32).eps
SECONDS = 3.0
ITEMS = 4


class Codec(Protocol):
    """What an export is read back as."""

    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes of all codebooks [B, K, T_frames], and scale or None, of a waveform [B, C, T]."""

    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Waveform [B, C, T] of codes [B, 1 to K, T_frames] and scale."""


@dataclass
class Clips:
    """Audio to compare on.

    Attributes:
        origin: where it is from, for the report.
        names: of each clip.
        wavs: float [C, T] each.
    """

    origin: str
    names: list[str]
    wavs: list[torch.Tensor]


@dataclass
class Report:
    """How an export compares with its source.

    Attributes:
        format: of the export.
        source: what was exported.
        audio: where the audio is from.
        clips: name and length of each.
        codes: how many were compared.
        codes_different: how many differ.
        codes_tied: whether, wherever codes differ, two entries of the codebook are equally near but
            for rounding.
        widest_tie: how far from equally near they are at most, in units of what rounding may do: up
            to 1 is a tie.
        wav_difference: largest difference of a sample, both decoding the codes of the source.
        wav_peak: loudest sample of the source's output.
        files: bytes of each file.
        needed: 4 bytes for each parameter and buffer that inference needs.
        notes: what else there is to know.
    """

    format: str
    source: str
    audio: str = ''
    clips: list[str] = field(default_factory=list)
    codes: int = 0
    codes_different: int = 0
    codes_tied: bool = True
    widest_tie: float = 0.0
    wav_difference: float = 0.0
    wav_peak: float = 0.0
    files: dict[str, int] = field(default_factory=dict)
    needed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether codes are equal, or tied where they differ, and waveforms are within
        `WAV_TOLERANCE`.
        """
        wav_equal = self.wav_difference <= WAV_TOLERANCE * max(1.0, self.wav_peak)  # False for NaN
        return wav_equal and (self.codes_different == 0 or self.codes_tied)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            'passed': self.passed,
            'total': sum(self.files.values()),
            'torch': str(torch.__version__),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + '\n')

    def __str__(self) -> str:
        total = sum(self.files.values())
        lines = [
            f'parity of {self.format} with {self.source}: {"passed" if self.passed else "FAILED"}',
            f'  audio: {self.audio}: {", ".join(self.clips)}',
        ]
        if self.codes:
            ties = (
                ''
                if self.codes_different == 0
                else (
                    f', the others are {"" if self.codes_tied else "NOT all "}ties (at most '
                    f'{self.widest_tie:.2g} of what '
                    f'rounding may do)'
                )
            )
            lines.append(
                f'  codes: {self.codes - self.codes_different} of {self.codes} equal{ties}'
            )
        lines.append(
            f'  waveform: largest difference {self.wav_difference:.1e}, at a peak of '
            f'{self.wav_peak:.2f}'
        )
        lines += [f'  {name}: {_megabytes(size)}' for name, size in self.files.items()]
        lines.append(
            f'  size: {_megabytes(total)} in all, {total / max(1, self.needed):.3f} of the '
            f'{_megabytes(self.needed)} that inference needs'
        )
        return '\n'.join([*lines, *(f'  note: {note}' for note in self.notes)])


def load_clips(
    model: CompressionModel, sources: Sequence[str | os.PathLike[str]] | None = None
) -> Clips:
    """Audio for a model: stretches of recordings, of uneven lengths.

    Args:
        model: its sample rate and channels are those of the clips.
        sources: audio files, folders or manifests. None: the example recordings.

    Raises:
        ValueError: sources that cannot be read.
    """
    origin = 'given'
    if sources is None:
        sources = [paths.ROOT / 'dataset' / 'example' / 'evaluate']
        origin = 'recordings of dataset/example/evaluate'
    from audiocodec.data import load_source, read_segment  # late: models do not need sound files

    metas = [meta for source in sources for meta in load_source(source)]
    metas = metas[:: max(1, len(metas) // ITEMS)][:ITEMS]
    clips = Clips(origin, [], [])
    for index, meta in enumerate(metas):
        frames = int(SECONDS * model.sample_rate) - 37 * index - 1
        start = max(0, int(meta.duration * model.sample_rate) - frames) // 2
        clips.wavs.append(
            _fit(model, read_segment(meta.path, start, frames, model.sample_rate, model.channels))
        )
        clips.names.append(
            f'{Path(meta.path).name} ({clips.wavs[-1].shape[-1] / model.sample_rate:.2f} s)'
        )
    return clips


@torch.no_grad()
def compare(model: CompressionModel, export: Codec, clips: Clips, report: Report) -> None:
    """Compare on every clip alone, and on two in a batch; fills the figures of the report.

    Codes are compared at all codebooks, of which fewer are the first; waveforms at one, half and
    all of them.

    Args:
        model: the source, in eval mode.
        export: what was read back.
        clips: the audio.
        report: its format, source and notes are left as they are.
    """
    model.set_num_codebooks(model.total_codebooks)
    report.audio, report.clips = clips.origin, clips.names
    batches = [wav[None] for wav in clips.wavs]
    if len(clips.wavs) > 1:
        shortest = min(wav.shape[-1] for wav in clips.wavs[:2])
        batches.append(torch.stack([wav[..., :shortest] for wav in clips.wavs[:2]]))
    for wav in batches:
        if model.total_codebooks == 0:
            assert isinstance(
                export, CompressionModel
            )  # formats of others hold no model without codes
            _compare_wavs(report, model(wav).wav, export(wav).wav)
            continue
        latents, codes, scale = _encode(model, wav)
        found, found_scale = export.encode(wav)
        _compare_codes(report, model, latents, codes, found)
        if scale is not None:
            assert found_scale is not None
            _compare_wavs(report, scale, found_scale)
        for number in sorted({1, max(1, model.total_codebooks // 2), model.total_codebooks}):
            some = codes[:, :number].contiguous()
            _compare_wavs(report, model.decode(some, scale), export.decode(some, scale))


def needed_bytes(model: CompressionModel) -> int:
    """4 bytes for each number that a model keeps to encode and decode with."""
    return 4 * sum(value.numel() for value in model.for_inference().state_dict().values())


def _encode(
    model: CompressionModel,
    wav: torch.Tensor,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Latents before the quantizer [B, D, T_frames], where there are some, codes and scale."""
    latents: list[torch.Tensor] = []
    if not isinstance(model, EncodecModel):
        return None, *model.encode(wav)
    hook = model.encoder.register_forward_hook(
        lambda _module, _inputs, output: latents.append(output)
    )
    try:
        codes, scale = model.encode(wav)
    finally:
        hook.remove()
    return torch.cat(latents, dim=-1), codes, scale


def _compare_codes(
    report: Report,
    model: CompressionModel,
    latents: torch.Tensor | None,
    codes: torch.Tensor,
    found: torch.Tensor,
) -> None:
    report.codes += codes.numel()
    if found.shape != codes.shape or found.dtype != codes.dtype:
        report.codes_different += codes.numel()
        report.codes_tied = False
        report.notes.append(
            f'codes are {found.dtype} {list(found.shape)}, not {codes.dtype} {list(codes.shape)}'
        )
        return
    different = found != codes
    if not different.any():
        return
    report.codes_different += int(different.sum())
    quantizer = getattr(model, 'quantizer', None)
    if latents is None or not isinstance(quantizer, ResidualVectorQuantizer):
        report.codes_tied = False
        return
    report.widest_tie = max(
        report.widest_tie, _widest_tie(quantizer.codebooks.embed, latents, codes, found)
    )
    report.codes_tied = report.widest_tie <= 1


def _widest_tie(
    embed: torch.Tensor, latents: torch.Tensor, codes: torch.Tensor, found: torch.Tensor
) -> float:
    """Where codes differ, how much nearer one entry is than the other, in units of what rounding
    may do.

    If a latent is off by d, its squared distances to entries a and b change by 2 d·(a - b) against
    each other, at most 2 |d| |a - b|. Where a and b nearly coincide, the rounding of the distances
    themselves is more than that. The levels after the first that differs quantize another residual,
    and are not asked.

    Args:
        embed: entries [K, bins, D].
        latents: [B, D, T].
        codes: of the source, int64 [B, K, T].
        found: others, of the same shape.
    """
    books, widest, largest = embed.double(), 0.0, latents.abs().max().item()
    for item, frame in (found != codes).any(dim=1).nonzero().tolist():
        ours, theirs = codes[item, :, frame], found[item, :, frame]
        if int(theirs.min()) < 0 or int(theirs.max()) >= embed.shape[1]:
            return float('inf')
        level = int((ours != theirs).nonzero()[0])
        residual = latents[item, :, frame].double() - sum(
            books[above, ours[above]] for above in range(level)
        )
        first, second = books[level, ours[level]], books[level, theirs[level]]
        gap = (residual - first).square().sum() - (residual - second).square().sum()
        rounding = 2 * LATENT_ROUNDING * largest * (first - second).norm()
        rounding += DISTANCE_ROUNDING * max(
            vector.square().sum() for vector in (residual, first, second)
        )
        widest = max(widest, (gap.abs() / rounding).item())
    return widest


def _compare_wavs(report: Report, wav: torch.Tensor, found: torch.Tensor) -> None:
    if found.shape != wav.shape:
        report.notes.append(
            f'a waveform or scale has the shape {list(found.shape)}, not {list(wav.shape)}'
        )
        report.wav_difference = float('inf')
        return
    difference = (found - wav).abs().max().item()
    # `max` would pass over a NaN
    report.wav_difference = (
        difference if not difference <= report.wav_difference else report.wav_difference
    )
    report.wav_peak = max(report.wav_peak, wav.abs().max().item())


def _fit(model: CompressionModel, wav: torch.Tensor) -> torch.Tensor:
    """Cut to a length that only full segments give, where the model takes segments: others expect
    no other.
    """
    segments = getattr(model, 'segments', None)
    if segments is None or wav.shape[-1] <= segments.length:
        return wav
    number = (wav.shape[-1] - segments.length) // segments.stride
    return wav[..., : number * segments.stride + segments.length]


def _megabytes(size: int) -> str:
    return f'{size / 1e6:.2f} MB'
