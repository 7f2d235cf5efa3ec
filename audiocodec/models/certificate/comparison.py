"""Comparison of two computations of the same model: codes, and decoded waveforms."""

import math
from dataclasses import dataclass, field

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.encodec import EncodecModel
from audiocodec.quantization import BaseQuantizer

# Largest accepted difference of waveforms, relative to their peak.
WAV_TOLERANCE = 1e-5


@dataclass(kw_only=True)
class Comparison:
    """Differences of codes and waveforms, over all that were added.

    Attributes:
        codes: number of codes compared.
        codes_different: number of codes that differ.
        codes_tied: True if wherever codes differ, two entries are equally near up to rounding.
        widest_tie: largest difference of such distances, relative to the possible rounding error;
            up to 1 is a tie.
        wav_difference: largest difference of a sample, both decoding the same codes.
        wav_peak: largest absolute sample of the reference.
        notes: further remarks.
    """

    codes: int = 0
    codes_different: int = 0
    codes_tied: bool = True
    widest_tie: float = 0.0
    wav_difference: float = 0.0
    wav_peak: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if all codes are equal or tied, and waveforms within `WAV_TOLERANCE`."""
        return self.codes_equal and self.wav_within(WAV_TOLERANCE)

    @property
    def codes_equal(self) -> bool:
        """True if all codes are equal or tied."""
        return self.codes_different == 0 or self.codes_tied

    def wav_within(self, tolerance: float, full_scale: float = 0.0) -> bool:
        """Return whether waveforms differ by at most `tolerance` times their peak.

        Args:
            tolerance: fraction of the peak.
            full_scale: smallest peak that counts.
        """
        limit = tolerance * max(full_scale, self.wav_peak)
        return self.wav_difference <= limit  # False for NaN

    def add_codes(
        self,
        model: CompressionModel,
        latents: torch.Tensor | None,
        codes: torch.Tensor,
        found: torch.Tensor,
    ) -> None:
        """Compare codes [B, K, T_frames] with those found otherwise.

        Args:
            model: the model whose codes they are.
            latents: before its quantizer, [B, D, T_frames], from which ties are proven; or None.
            codes: the reference.
            found: compared with it.
        """
        self.codes += codes.numel()
        if found.shape != codes.shape or found.dtype != codes.dtype:
            self.codes_different += codes.numel()
            self.codes_tied = False
            self.notes.append(
                f'codes are {found.dtype} {list(found.shape)}, not {codes.dtype} '
                f'{list(codes.shape)}'
            )
            return
        different = found != codes
        if not different.any():
            return
        self.codes_different += int(different.sum())
        quantizer = getattr(model, 'quantizer', None)
        tie = None
        if latents is not None and isinstance(quantizer, BaseQuantizer):
            tie = quantizer.rounding_ties(latents, codes, found)
        if tie is None:
            self.codes_tied = False
            return
        self.widest_tie = max(self.widest_tie, tie)
        self.codes_tied = self.codes_tied and self.widest_tie <= 1

    def add_wavs(self, wav: torch.Tensor, found: torch.Tensor) -> None:
        """Compare a waveform, or scales, with those found otherwise; any equal shape."""
        if found.shape != wav.shape:
            self.notes.append(
                f'a waveform or scale has shape {list(found.shape)}, not {list(wav.shape)}'
            )
            self.wav_difference = float('inf')
            return
        difference = (found - wav).abs().max().item()
        # `max` would ignore NaN; once found, it stays
        if difference > self.wav_difference or math.isnan(difference):
            self.wav_difference = difference
        self.wav_peak = max(self.wav_peak, wav.abs().max().item())

    def describe_codes(self) -> str:
        """Return how many codes are equal, and whether the others are ties."""
        ties = ''
        if self.codes_different:
            ties = (
                f', the others are {"" if self.codes_tied else "NOT all "}ties (at most '
                f'{self.widest_tie:.2g} of the possible rounding error)'
            )
        return f'{self.codes - self.codes_different} of {self.codes} equal{ties}'


def encode_with_latents(
    model: CompressionModel, wav: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Return latents before the quantizer [B, D, T_frames] or None, codes and scale."""
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
