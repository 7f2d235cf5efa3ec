"""Mimi, the codec of Moshi (Défossez et al., arXiv 2410.00037), as `transformers` has it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import hub
from .base import CodecOutput, CompressionModel


class Mimi(CompressionModel):
    """A Mimi model behind the interface of all compression models; it cannot be trained: codes carry no gradient.

    Its first codebooks are semantic, always in use; the latents are the sum of the semantic and the acoustic codes.

    Args:
        model: a `transformers.MimiModel`.

    Raises:
        ValueError: a model with the encoder or the decoder alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        for part in ('encoder', 'decoder'):
            if getattr(model, part) is None:
                raise ValueError(f'this Mimi model has no {part}: expected the whole codec.')
        self._num_codebooks = self.total_codebooks

    @staticmethod
    def load(folder: Path) -> 'Mimi':
        """The model in a folder of `transformers`.

        Raises:
            ValueError: no transformers, or a folder that holds no such model.
        """
        return Mimi(hub.build_with_transformers('MimiModel', folder))

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""
        return int(self.model.config.sampling_rate)

    @property
    def channels(self) -> int:
        """Channels of the waveforms."""
        return int(self.model.config.audio_channels)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return round(self.model.config.sampling_rate / self.model.config.frame_rate)

    @property
    def cardinality(self) -> int:
        """Entries of each codebook."""
        return int(self.model.config.codebook_size)

    @property
    def num_codebooks(self) -> int:
        """Codebooks in use."""
        return self._num_codebooks

    @property
    def total_codebooks(self) -> int:
        """Codebooks there are."""
        return int(self.model.config.num_quantizers)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, at least the semantic ones; see `CompressionModel`."""
        lowest = int(self.model.config.num_semantic_quantizers)
        if not lowest <= n <= self.total_codebooks:
            raise ValueError(f'{n} codebooks asked for: this model can use {lowest} to {self.total_codebooks}.')
        self._num_codebooks = n

    def forward(self, wav: torch.Tensor) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, C, T]; see `CompressionModel`. The commitment loss is 0."""
        codes, _ = self.encode(wav)
        bandwidth = torch.full((), self.bandwidth, device=wav.device)
        return CodecOutput(self.decode(codes)[..., :wav.shape[-1]], codes, self.decode_latent(codes), None, bandwidth,
                           torch.zeros((), device=wav.device), {})

    @torch.no_grad()
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Codes [B, num_codebooks, ceil(T / hop_length)], and no scale; see `CompressionModel`."""
        self.check_wav(wav)
        return self.model.encode(wav, num_quantizers=self.num_codebooks, return_dict=True).audio_codes, None

    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Waveform [B, C, T_frames * hop_length] of codes; see `CompressionModel`."""
        if scale is not None:
            raise ValueError('scale was given to a model that does not renormalise: use decode(codes).')
        self.check_codes(codes)
        return self.model.decode(codes.long(), return_dict=True).audio_values

    def decode_latent(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents [B, D, T_frames] of codes; see `CompressionModel`."""
        self.check_codes(codes)
        return self.model.quantizer.decode(codes.long())
