"""Mimi, the codec of Moshi (Défossez et al., arXiv 2410.00037), wrapped from `transformers`."""

import numpy as np
import torch
from torch import nn

from audiocodec.models.base import CodecOutput
from audiocodec.models.wrapped.base import TransformersCodec


class Mimi(TransformersCodec):
    """Mimi model with the interface of all compression models.

    It cannot be trained, because its codes carry no gradient. The first codebooks are semantic, and
    always in use. The latents are the sum of the semantic and the acoustic codes.

    Args:
        model: a `transformers.MimiModel`.

    Raises:
        ValueError: the model has no encoder or no decoder.
    """

    MODEL_CLASS = 'MimiModel'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        for part in ('encoder', 'decoder'):
            if getattr(model, part) is None:
                raise ValueError(f'this Mimi model has no {part}: expected the whole codec')

    @property
    def channels(self) -> int:
        """Channels of the waveforms."""
        return int(self.model.config.audio_channels)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return round(self.model.config.sampling_rate / self.model.config.frame_rate)

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return int(self.model.config.num_quantizers)

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts."""
        return range(int(self.model.config.num_semantic_quantizers), self.total_codebooks + 1)

    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, C, T]; it has no losses."""
        wav = self.check_wav(wav)
        codes, _ = self.encode(wav)
        bandwidth = torch.full((), self.bandwidth, device=wav.device)
        return CodecOutput(
            self.decode(codes)[..., : wav.shape[-1]],
            codes,
            self.decode_latent(codes),
            None,
            bandwidth,
            {},
            {},
        )

    @torch.no_grad()
    def encode(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return codes [B, num_codebooks, ceil(T / hop_length)], and no scale."""
        wav = self.check_wav(wav)
        encoded = self.model.encode(wav, num_quantizers=self.num_codebooks, return_dict=True)
        return encoded.audio_codes, None

    def encode_latent(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return latents [B, D, ceil(T / hop_length)] before the quantizer, and no scale."""
        encoded = self.model.encoder(self.check_wav(wav))
        if not isinstance(encoded, torch.Tensor):
            return encoded.latents, None
        # in older versions of transformers, `encoder` is the first of three parts
        hidden = self.model.encoder_transformer(
            encoded.transpose(1, 2), return_dict=True
        ).last_hidden_state
        return self.model.downsample(hidden.transpose(1, 2)), None

    def _decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes, return_dict=True).audio_values

    def decode_latent(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents [B, D, T_frames] of codes; see `CompressionModel`."""
        return self.model.quantizer.decode(self.check_codes(codes))
