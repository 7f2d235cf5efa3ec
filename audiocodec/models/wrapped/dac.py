"""DAC, the Descript Audio Codec (Kumar et al., arXiv 2306.06546), wrapped from `transformers`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.models.base import CodecOutput, CompressionModel
from audiocodec.models.formats import hub


class DAC(CompressionModel):
    """Mono DAC model with the interface of all compression models.

    A waveform is padded with zeros to whole frames before encoding, as by the feature extractor of
    `transformers`. If a stride is odd, the decoder returns a few samples less than
    T_frames * hop_length, and its output is padded with zeros.

    Args:
        model: a `transformers.DacModel`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self._num_codebooks = self.total_codebooks

    @staticmethod
    def load(folder: Path) -> 'DAC':
        """Load the model in a folder of `transformers`.

        Raises:
            ValueError: transformers is missing, or the folder has no such model.
        """
        return DAC(hub.build_with_transformers('DacModel', folder))

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""
        return int(self.model.config.sampling_rate)

    @property
    def channels(self) -> int:
        """Channels of the waveforms: 1."""
        return 1

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return int(self.model.config.hop_length)

    @property
    def cardinality(self) -> int:
        """Entries of each codebook."""
        return int(self.model.config.codebook_size)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""
        return self._num_codebooks

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return int(self.model.config.n_codebooks)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks; see `CompressionModel`."""
        if not 1 <= n <= self.total_codebooks:
            raise ValueError(
                f'cannot use {n} codebooks: this model has 1 to {self.total_codebooks}'
            )
        self._num_codebooks = n

    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, 1, T]; see `CompressionModel`.

        The commitment loss is the weighted sum of DAC's two codebook losses. Training uses all
        codebooks.
        """
        wav = self.check_wav(wav)
        loss, latents, codes, _ = self._encode(wav)
        wav_hat = self._decode(latents)[..., : wav.shape[-1]]
        bandwidth = torch.full(
            (), self.bandwidth * codes.shape[1] / self.num_codebooks, device=wav.device
        )
        return CodecOutput(wav_hat, codes, latents, None, bandwidth, loss.mean(), {})

    @torch.no_grad()
    def encode(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return codes [B, num_codebooks, ceil(T / hop_length)], and no scale."""
        wav = self.check_wav(wav)
        return self._encode(wav)[2][:, : self.num_codebooks], None

    def encode_latent(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return latents [B, D, ceil(T / hop_length)] before the quantizer, and no scale."""
        return self.model.encoder(self._pad(self.check_wav(wav))), None

    def decode(
        self, codes: torch.Tensor | np.ndarray, scale: torch.Tensor | np.ndarray | None = None
    ) -> torch.Tensor:
        """Return the waveform [B, 1, T_frames * hop_length] of codes; see `CompressionModel`."""
        if scale is not None:
            raise ValueError('this model does not renormalize, but got a scale: use decode(codes)')
        return self._decode(self.decode_latent(codes))

    def decode_latent(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents [B, D, T_frames] of codes; see `CompressionModel`."""
        return self.model.quantizer.from_codes(self.check_codes(codes))[0]

    def _encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return loss [B], quantized latents [B, D, T_frames], codes, and projected latents."""
        return self.model.encode(self._pad(wav), self.num_codebooks, return_dict=False)

    def _pad(self, wav: torch.Tensor) -> torch.Tensor:
        """Pad a waveform to whole frames."""
        return F.pad(wav, (0, -wav.shape[-1] % self.hop_length))

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        wav = self.model.decode(latents, return_dict=False)[0].reshape(len(latents), 1, -1)
        return F.pad(wav, (0, latents.shape[-1] * self.hop_length - wav.shape[-1]))
