"""DAC, the Descript Audio Codec (Kumar et al., arXiv 2306.06546), wrapped from `transformers`."""

import numpy as np
import torch
import torch.nn.functional as F

from audiocodec.models.base import CodecOutput
from audiocodec.models.wrapped.base import TransformersCodec


class DAC(TransformersCodec):
    """Mono DAC model with the interface of all compression models.

    A waveform is padded with zeros to whole frames before encoding, as by the feature extractor of
    `transformers`. If a stride is odd, the decoder returns a few samples less than
    T_frames * hop_length, and its output is padded with zeros.

    Args:
        model: a `transformers.DacModel`.
    """

    MODEL_CLASS = 'DacModel'

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """The sum of DAC's two codebook losses, with its weights."""
        return ('commitment',)

    @property
    def channels(self) -> int:
        """Channels of the waveforms: 1."""
        return 1

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return int(self.model.config.hop_length)

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return int(self.model.config.n_codebooks)

    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, 1, T]; see `CompressionModel`.

        Its loss is the weighted sum of DAC's two codebook losses. Training uses all
        codebooks.
        """
        wav = self.check_wav(wav)
        loss, latents, codes, _ = self._encode(wav)
        wav_hat = self._decode(latents)[..., : wav.shape[-1]]
        bandwidth = torch.full(
            (), self.bandwidth * codes.shape[1] / self.num_codebooks, device=wav.device
        )
        return CodecOutput(
            wav_hat, codes, latents, None, bandwidth, {'commitment': loss.mean()}, {}
        )

    @torch.no_grad()
    def encode(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return codes [B, num_codebooks, ceil(T / hop_length)], and no scale."""
        wav = self.check_wav(wav)
        return self._encode(wav)[2][:, : self.num_codebooks], None

    def encode_latent(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return latents [B, D, ceil(T / hop_length)] before the quantizer, and no scale."""
        return self.model.encoder(self._pad(self.check_wav(wav))), None

    def _decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
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
