"""Stereo from a mono codec, with interleaved codes (Copet et al., arXiv 2306.05284)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from audiocodec.models.base import CodecOutput, CompressionModel


class InterleaveStereoCompressionModel(CompressionModel):
    """Stereo codec that encodes left and right with a mono model and interleaves their codes.

    The left channel comes first. With codes [B, K, T_frames] of the mono model for each channel,
    the codes are [B, 2 K, T_frames], and numbers of codebooks are counted after interleaving; or
    [B, K, 2 T_frames], at twice the frame rate. Latents are [B, 2 D, T_frames], left then right.
    The scale, if any, is [B, 2], or [B, 2 segments], left then right.

    Args:
        model: a model of one channel.
        per_timestep: interleave frames instead of codebooks.

    Raises:
        ValueError: the model is not mono, or its frames cannot be halved.
    """

    def __init__(self, model: CompressionModel, per_timestep: bool = False) -> None:
        super().__init__()
        if model.channels != 1:
            raise ValueError(
                f'the wrapped model has {model.channels} channels: expected a mono model'
            )
        if per_timestep and model.hop_length % 2:
            raise ValueError(
                f'per_timestep=True halves the hop length of the wrapped model, which is odd '
                f'({model.hop_length} samples): use per_timestep=False'
            )
        self.model = model
        self.per_timestep = per_timestep

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""
        return self.model.sample_rate

    @property
    def channels(self) -> int:
        """Channels of the waveforms: 2."""
        return 2

    @property
    def hop_length(self) -> int:
        """Samples per frame of the interleaved codes."""
        return self.model.hop_length // 2 if self.per_timestep else self.model.hop_length

    @property
    def cardinality(self) -> int:
        """Entries of each codebook; 0 for a model that does not quantize."""
        return self.model.cardinality

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use, after interleaving."""
        return self.model.num_codebooks * self._per_frame

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks, after interleaving."""
        return self.model.total_codebooks * self._per_frame

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts."""
        inner = self.model.possible_num_codebooks
        factor = self._per_frame
        return range(inner.start * factor, inner.stop * factor, inner.step * factor)

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the losses in the output of `forward`, those of the mono model."""
        return self.model.loss_terms

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        """Those of the mono model."""
        return self.model.compiled_parts

    def bandwidth_of(self, num_codebooks: int) -> float:
        """Return the bit rate of both channels with `num_codebooks` codebooks (kbps)."""
        return 2 * self.model.bandwidth_of(num_codebooks // self._per_frame)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, counted after interleaving; even if these are interleaved.

        Raises:
            ValueError: `n` odd or out of range.
        """
        if n % self._per_frame:
            raise ValueError(
                f'{n} codebooks cannot be divided between two channels: use an even number from 2 '
                f'to {self.total_codebooks}'
            )
        self.model.set_num_codebooks(n // self._per_frame)

    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, 2, T]; see `CompressionModel`."""
        wav = self.check_wav(wav)
        out = self.model(wav.reshape(-1, 1, wav.shape[-1]))
        return out._replace(
            wav=out.wav.reshape(wav.shape),
            codes=self._interleave(out.codes),
            latents=out.latents.reshape(len(wav), -1, out.latents.shape[-1]),
            scale=None if out.scale is None else out.scale.reshape(len(wav), -1),
            bandwidth=2 * out.bandwidth,
        )

    def _encode_batch(
        self, wav: torch.Tensor | np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return interleaved codes and scale of a waveform [B, 2, T]; see `CompressionModel`."""
        wav = self.check_wav(wav)
        codes, scale = self.model.encode(wav.reshape(-1, 1, wav.shape[-1]))
        return self._interleave(codes), None if scale is None else scale.reshape(len(wav), -1)

    def encode_latent(
        self, wav: torch.Tensor | np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return latents [B, 2 D, T_frames], left then right, and scale; see `CompressionModel`."""
        wav = self.check_wav(wav)
        latents, scale = self.model.encode_latent(wav.reshape(-1, 1, wav.shape[-1]))
        latents = latents.reshape(len(wav), -1, latents.shape[-1])
        return latents, None if scale is None else scale.reshape(len(wav), -1)

    def _decode_batch(
        self, codes: torch.Tensor | np.ndarray, scale: torch.Tensor | np.ndarray | None
    ) -> torch.Tensor:
        """Return the waveform [B, 2, T] of interleaved codes and scale; see `CompressionModel`."""
        apart = self._separate(codes)
        if scale is not None:
            scale = self._to_floats('scale', scale, 'as returned by encode')
            if scale.dim() != 2 or len(scale) != len(codes) or scale.shape[1] % 2:
                raise ValueError(
                    f'scale has shape {list(scale.shape)}: expected [{len(codes)}, 2], one per '
                    'channel'
                )
            scale = scale.reshape(len(apart), -1)
        return self.model.decode(apart, scale).reshape(len(codes), 2, -1)

    def frames(self, samples: int) -> int:
        """Return the number of interleaved frames of an item; see `CompressionModel`."""
        return self.model.frames(samples) * (2 if self.per_timestep else 1)

    def num_scales(self, frames: int) -> int:
        """Return the number of scales of both channels of an item; see `CompressionModel`."""
        return 2 * self.model.num_scales(-(-frames // 2) if self.per_timestep else frames)

    def decode_latent(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return latents [B, 2 D, T_frames] of interleaved codes; see `CompressionModel`."""
        latents = self.model.decode_latent(self._separate(codes))
        return latents.reshape(len(codes), -1, latents.shape[-1])

    @property
    def _per_frame(self) -> int:
        return 1 if self.per_timestep else 2

    def _interleave(self, codes: torch.Tensor) -> torch.Tensor:
        """Map codes [2 B, K, T], left and right alternating, to [B, 2 K, T] or [B, K, 2 T]."""
        apart = codes.unflatten(0, (-1, 2))
        if self.per_timestep:
            return apart.permute(0, 2, 3, 1).flatten(2)
        return apart.transpose(1, 2).flatten(1, 2)

    def _separate(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Undo `_interleave`."""
        codes = self.check_codes(codes)
        dim = 2 if self.per_timestep else 1
        if codes.shape[dim] % 2:
            raise ValueError(
                f'codes have shape {list(codes.shape)}: expected an even number of '
                f'{"frames" if self.per_timestep else "codebooks"}, left and right alternating'
            )
        apart = codes.unflatten(dim, (-1, 2))
        return apart.movedim(dim + 1, 1).flatten(0, 1)
