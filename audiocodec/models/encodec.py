"""EnCodec (Défossez et al., arXiv 2210.13438): encoder, quantizer and decoder, trained jointly."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from audiocodec.models.base import CodecOutput, CompressionModel
from audiocodec.models.segments import Segments
from audiocodec.modules.checks import require_int
from audiocodec.quantization import BaseQuantizer


class EncodecModel(CompressionModel):
    """Codec: waveform -> latents -> codes -> latents -> waveform.

    Args:
        encoder: maps [B, channels, T] to [B, dimension, ceil(T / hop_length)]; has the integer
            attributes `channels`, `dimension` and `hop_length`, and `causal` if it is causal.
        decoder: maps [B, dimension, T_frames] to [B, channels, T_frames * hop_length], with the
            same attributes.
        quantizer: quantizer of latents [B, dimension, T_frames].
        sample_rate: sample rate of the waveforms (Hz).
        output_sample_rate: sample rate of the reconstruction (Hz), above that of the encoder's
            input; None: the same. The hop length of the decoder is longer in proportion.
        channels: channels of the waveforms.
        renormalize: divide every item by its loudness (RMS of its mono mix) before the encoder, and
            multiply the reconstruction by it. Not possible in a causal model, because it needs the
            whole item.
        segment_duration: encode segments of this length in seconds independently, `renormalize`
            included, as the paper's 48 kHz model does (see `Segments`); None: the whole item at
            once. In training, `forward` never divides items into segments.
        overlap: fraction of a segment that the next one repeats, in [0, 1). The decoder cross-fades
            them.

    Raises:
        ValueError: the parts do not fit together.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantizer: BaseQuantizer,
        sample_rate: int,
        channels: int,
        renormalize: bool = False,
        segment_duration: float | None = None,
        overlap: float = 0.01,
        output_sample_rate: int | None = None,
    ) -> None:
        super().__init__()
        require_int('sample_rate', sample_rate)
        require_int('channels', channels)
        self._output_sample_rate = sample_rate if output_sample_rate is None else output_sample_rate
        require_int('output_sample_rate', self._output_sample_rate)
        if self._output_sample_rate < sample_rate:
            raise ValueError(
                f'output_sample_rate: {output_sample_rate} Hz is below sample_rate, {sample_rate} '
                f'Hz: a decoder can only add samples'
            )
        rates = (sample_rate, self._output_sample_rate)
        hop_length = _check_parts(encoder, decoder, quantizer, channels, rates)
        if renormalize and segment_duration is None and getattr(encoder, 'causal', False):
            raise ValueError(
                'renormalize=True needs the loudness of the whole item, which a causal encoder '
                'must not see: use renormalize=False or causal=False'
            )
        self.segments = None
        if segment_duration is not None:
            if self._output_sample_rate != sample_rate:
                raise ValueError(
                    f'segment_duration={segment_duration}: segments need the same rate of input '
                    f'and output, got output_sample_rate={output_sample_rate}'
                )
            self.segments = Segments(int(segment_duration * sample_rate), overlap, hop_length)
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer
        self.renormalize = renormalize
        self._sample_rate = sample_rate
        self._channels = channels
        self._hop_length = hop_length

    adaptable_options: ClassVar[frozenset[str]] = frozenset(('sample_rate', 'output_sample_rate'))

    @staticmethod
    def spelled_out_options(options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments with the output's rate filled in."""
        found = dict(options)
        if found['output_sample_rate'] is None:
            found['output_sample_rate'] = found['sample_rate']
        return found

    @staticmethod
    def unused_options(options: Mapping[str, Any]) -> set[str]:
        """Return the constructor's arguments that have no effect, given the others."""
        return {'overlap'} if options['segment_duration'] is None else set()

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the losses in the output of `forward`, those of the quantizer."""
        return self.quantizer.loss_terms

    @property
    def unused_codes_advice(self) -> str:
        """Advice of the quantizer."""
        return self.quantizer.unused_codes_advice

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        """Encoder and decoder."""
        return self.encoder, self.decoder

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""
        return self._sample_rate

    @property
    def output_sample_rate(self) -> int:
        """Samples per second of reconstructions (Hz)."""
        return self._output_sample_rate

    @property
    def channels(self) -> int:
        """Channels of the waveforms."""
        return self._channels

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self._hop_length

    @property
    def cardinality(self) -> int:
        """Entries of each codebook; 0 without a quantizer."""
        return self.quantizer.cardinality

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""
        return self.quantizer.num_codebooks

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return self.quantizer.total_codebooks

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts, ascending; empty without any."""
        return self.quantizer.possible_num_codebooks

    def bandwidth_of(self, num_codebooks: int) -> float:
        """Return the bit rate with the first `num_codebooks` codebooks (kbps)."""
        return self.quantizer.bandwidth(self.frame_rate, num_codebooks)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks; see `CompressionModel`."""
        self.quantizer.set_num_codebooks(n)

    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, C, T] of any length."""
        wav = self.check_wav(wav)
        segments = None if self.training else self.segments
        latents, scale = self._to_latents(self.at_input_rate(wav), segments)
        quantized = self.quantizer(latents, self.frame_rate)
        decoded = self._to_wav(quantized.latents, scale, segments)
        assert decoded.shape[-1] >= wav.shape[-1], (decoded.shape, wav.shape)
        # under autocast, the decoder's output may have a type too coarse for the losses
        return CodecOutput(
            decoded[..., : wav.shape[-1]].to(wav.dtype),
            quantized.codes,
            quantized.latents,
            scale,
            quantized.bandwidth,
            quantized.losses,
            quantized.metrics,
            quantized.features,
        )

    @torch.no_grad()
    def _encode_batch(
        self, wav: torch.Tensor | np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes [B, num_codebooks, T_frames] and scale or None; see `CompressionModel`."""
        wav = self.check_wav(wav)
        latents, scale = self._to_latents(wav, self.segments)
        return self.quantizer.encode(latents), scale

    def encode_latent(
        self, wav: torch.Tensor | np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return latents [B, D, T_frames] before the quantizer and scale; see `CompressionModel`.

        Bottlenecks of continuous autoencoders give theirs, with channels of their own: means of a
        variational, normalized latents of a noisy one. A model that renormalizes encodes
        `wav / scale`. With segments, latents and scales of all segments are concatenated.
        """
        latents, scale = self._to_latents(self.check_wav(wav), self.segments)
        return self.quantizer.encode_latent(latents), scale

    def _decode_batch(
        self, codes: torch.Tensor | np.ndarray, scale: torch.Tensor | np.ndarray | None
    ) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length] of codes; see `CompressionModel`.

        Without a scale, the output of a model that renormalizes has a loudness of 1.
        """
        latents = self.decode_latent(codes)
        if scale is not None:
            scale = self._check_scale(scale, latents)
        return self._to_wav(latents, scale, self.segments)

    def decode_latent(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return latents [B, D, T_frames] of codes [B, K, T_frames]; see `CompressionModel`."""
        return self.quantizer.decode(self.check_codes(codes))

    def synthesize(
        self, latents: torch.Tensor, scale: torch.Tensor | np.ndarray | None = None
    ) -> torch.Tensor:
        """Return the waveform of latents [B, D, T_frames]; see `CompressionModel`."""
        if not isinstance(latents, torch.Tensor) or latents.dim() != 3 or latents.numel() == 0:
            shape = list(getattr(latents, 'shape', ()))
            raise ValueError(
                f'latents have shape {shape}: expected [B, D, T_frames], none of them 0'
            )
        if scale is not None:
            scale = self._check_scale(scale, latents)
        return self._to_wav(self.quantizer.decode_latent(latents), scale, self.segments)

    def frames(self, samples: int) -> int:
        """Return the number of frames of an item; see `CompressionModel`."""
        sizes = [samples] if self.segments is None else self.segments.sizes(samples)
        # some encoders complete a group of frames, which shares a code
        multiple = getattr(self.encoder, 'frame_multiple', 1)
        return sum(-(-size // (self.hop_length * multiple)) * multiple for size in sizes)

    def num_scales(self, frames: int) -> int:
        """Return the number of segments of an item; see `CompressionModel`."""
        return 1 if self.segments is None else len(self.segments.split(frames))

    def _to_latents(
        self, wav: torch.Tensor, segments: Segments | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return latents [B, D, T_frames] and scale of a waveform, concatenated over segments."""
        latents: list[torch.Tensor] = []
        scales: list[torch.Tensor] = []
        for part in [wav] if segments is None else segments.cut(wav):
            normalized, scale = self._normalize(part)
            latents.append(self.encoder(normalized))
            if scale is not None:
                scales.append(scale)
        return _cat(latents), _cat(scales) if scales else None

    def _to_wav(
        self, latents: torch.Tensor, scale: torch.Tensor | None, segments: Segments | None
    ) -> torch.Tensor:
        """Return the waveform of latents [B, D, T_frames] and scale; inverse of `_to_latents`."""
        if segments is None:
            return self._denormalize(self.decoder(latents), scale)
        frames = segments.split(latents.shape[-1])
        wavs = [self.decoder(part) for part in latents.split(frames, dim=-1)]
        if scale is not None:
            wavs = [self._denormalize(wav, part) for wav, part in zip(wavs, scale.split(1, dim=1))]
        return segments.join(wavs)

    def _normalize(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Normalize items to a loudness of 1; returns the scale [B, 1] too, None if disabled."""
        if not self.renormalize:
            return wav, None
        mono = wav.mean(dim=1, keepdim=True)
        scale = mono.square().mean(dim=2, keepdim=True).sqrt() + 1e-8
        return wav / scale, scale.view(-1, 1)

    @staticmethod
    def _denormalize(wav: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Invert `_normalize`."""
        return wav if scale is None else wav * scale.view(-1, 1, 1)

    def _check_scale(self, scale: torch.Tensor | np.ndarray, latents: torch.Tensor) -> torch.Tensor:
        if not self.renormalize:
            raise ValueError('this model does not renormalize, but got a scale: use decode(codes)')
        number = self.num_scales(latents.shape[-1])
        scale = self._to_floats('scale', scale, 'as returned by encode')
        if scale.shape != (len(latents), number):
            raise ValueError(
                f'scale has shape {list(scale.shape)}: expected [{len(latents)}, {number}], one '
                f'per {"item" if self.segments is None else "segment"}'
            )
        return scale


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate along the last dimension, without copying a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _check_parts(
    encoder: nn.Module,
    decoder: nn.Module,
    quantizer: BaseQuantizer,
    channels: int,
    rates: tuple[int, int],
) -> int:
    """Check that the parts of a codec fit together, and return the encoder's hop length in samples.

    Args:
        encoder: see `EncodecModel`.
        decoder: see `EncodecModel`.
        quantizer: see `EncodecModel`.
        channels: see `EncodecModel`.
        rates: sample rates of input and output (Hz).

    Raises:
        ValueError: they do not.
    """
    parts: dict[str, dict[str, Any]] = {
        'model': {'channels': channels},
        'quantizer': {'dimension': quantizer.dimension},
    }
    for part, module in (('encoder', encoder), ('decoder', decoder)):
        parts[part] = {
            name: getattr(module, name, None) for name in ('channels', 'dimension', 'hop_length')
        }
        for name, value in parts[part].items():
            require_int(f'{part}.{name}', value)
    _check_hop_length(parts, rates)
    for name in ('channels', 'dimension'):
        values = {part: figures[name] for part, figures in parts.items() if name in figures}
        if len(set(values.values())) > 1:
            listed = ', '.join(f'{value} in the {part}' for part, value in values.items())
            raise ValueError(f'{name} must be the same in all parts of a model, got {listed}')
    return parts['encoder']['hop_length']


def _check_hop_length(parts: dict[str, dict[str, Any]], rates: tuple[int, int]) -> None:
    """Check that encoder and decoder have the same frame rate.

    Raises:
        ValueError: they do not.
    """
    ours, theirs = (parts[part]['hop_length'] for part in ('encoder', 'decoder'))
    if rates[0] == rates[1]:
        if ours != theirs:
            raise ValueError(
                f'hop_length must be the same in all parts of a model, got {ours} in the encoder, '
                f'{theirs} in the decoder (hop_length is the product of the ratios)'
            )
    elif ours * rates[1] != theirs * rates[0]:
        raise ValueError(
            f'output_sample_rate={rates[1]} with sample_rate={rates[0]} and a hop_length of {ours} '
            f'in the encoder needs {ours * rates[1] / rates[0]:g} in the decoder, got {theirs} '
            '(hop_length is the product of the ratios): append a ratio to those of the decoder; '
            'with n_filters divided by 2 for each, all other layers keep their shapes'
        )
