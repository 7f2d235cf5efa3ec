"""Comparison of an export with its source on audio: codes and waveforms."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.certificate.certificate import Certificate
from audiocodec.models.certificate.clips import Clips
from audiocodec.models.certificate.comparison import Comparison, encode_with_latents
from audiocodec.utils.files import write_bytes

# Largest accepted difference of waveforms, relative to full scale or to a louder peak.
WAV_TOLERANCE = 1e-4


class Codec(Protocol):
    """Interface of an export that was read back."""

    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes of all codebooks [B, K, T_frames], and scale or None, of wav [B, C, T]."""

    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Return the waveform [B, C, T] of codes [B, 1 to K, T_frames] and scale."""


@dataclass
class Report(Comparison):
    """Result of comparing an export with its source.

    Attributes:
        format: format of the export.
        source: name of the source.
        audio: origin of the audio.
        clips: name and length of each clip.
        files: size of each file in bytes.
        needed: 4 bytes for each parameter and buffer that inference needs.
        certificate: of the source, on the same audio; None for a model without codes.
    """

    format: str
    source: str
    audio: str = ''
    clips: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    needed: int = 0
    certificate: Certificate | None = None

    @property
    def passed(self) -> bool:
        """True if all codes are equal or tied, and waveforms are within `WAV_TOLERANCE`."""
        return self.codes_equal and self.wav_within(WAV_TOLERANCE, full_scale=1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            **asdict(self),
            'certificate': None if self.certificate is None else self.certificate.to_dict(),
            'passed': self.passed,
            'total': sum(self.files.values()),
            'torch': str(torch.__version__),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON."""
        write_bytes(Path(path), (json.dumps(self.to_dict(), indent=2) + '\n').encode())

    def __str__(self) -> str:
        total = sum(self.files.values())
        lines = [
            f'parity of {self.format} with {self.source}: {"passed" if self.passed else "FAILED"}',
            f'  audio: {self.audio}: {", ".join(self.clips)}',
        ]
        if self.codes:
            lines.append(f'  codes: {self.describe_codes()}')
        lines.append(
            f'  waveform: largest difference {self.wav_difference:.1e}, at a peak of '
            f'{self.wav_peak:.2f}'
        )
        lines += [f'  {name}: {_megabytes(size)}' for name, size in self.files.items()]
        lines.append(
            f'  size: {_megabytes(total)} in all, {total / max(1, self.needed):.3f} of the '
            f'{_megabytes(self.needed)} that inference needs'
        )
        if self.certificate is not None:
            outcome = 'passed' if self.certificate.passed else 'FAILED'
            lines.append(f'  certificate: {outcome}, see audiocodec certify')
        return '\n'.join([*lines, *(f'  note: {note}' for note in self.notes)])


@torch.no_grad()
def compare(model: CompressionModel, export: Codec, clips: Clips, report: Report) -> None:
    """Compare on every clip, and on a batch of two; fills in the results of the report.

    Codes are compared with all codebooks, waveforms with one, half and all of the codebooks.

    Args:
        model: the source, in eval mode.
        export: the export that was read back.
        clips: the audio.
        report: its format, source and notes are not changed.
    """
    model.set_num_codebooks(model.total_codebooks)
    report.audio = clips.origin
    report.clips = clips.names
    batches = [wav[None] for wav in clips.wavs]
    if len(clips.wavs) > 1:
        shortest = min(wav.shape[-1] for wav in clips.wavs[:2])
        batches.append(torch.stack([wav[..., :shortest] for wav in clips.wavs[:2]]))
    for wav in batches:
        if model.total_codebooks == 0:
            # only formats of this project support models without codebooks
            assert isinstance(export, CompressionModel)
            report.add_wavs(model(wav).wav, export(wav).wav)
            continue
        latents, codes, scale = encode_with_latents(model, wav)
        found, found_scale = export.encode(wav)
        report.add_codes(model, latents, codes, found)
        if scale is not None:
            assert found_scale is not None
            report.add_wavs(scale, found_scale)
        possible = model.possible_num_codebooks
        for number in sorted({possible[0], possible[len(possible) // 2], possible[-1]}):
            some = codes[:, :number].contiguous()
            report.add_wavs(model.decode(some, scale), export.decode(some, scale))


def needed_bytes(model: CompressionModel) -> int:
    """Return 4 bytes for each number that a model needs for inference."""
    return 4 * sum(value.numel() for value in model.for_inference().state_dict().values())


def _megabytes(size: int) -> str:
    return f'{size / 1e6:.2f} MB'
