"""Codecs that `transformers` has and this project has not, wrapped by what their methods take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.models.base import CodecOutput
from audiocodec.models.formats import hub
from audiocodec.models.wrapped import calls
from audiocodec.models.wrapped.base import TransformersCodec

# the first version of `transformers` with a type; other types that it knows are loaded, too
SINCE = {
    'xcodec': '4.56',
    'vibevoice_acoustic_tokenizer': '5.2',
    'higgs_audio_v2_tokenizer': '5.3',
    'xcodec2': '5.13',
    'neucodec': '5.17',
    'pocket_tts_audio_tokenizer': '5.21',
}
# types that were trained on signals of any length: they, or their feature extractors, complete the
# last frame. Others get whole frames.
_COMPLETE_FRAMES = ('xcodec2',)
_RESIDUAL = ('bandwidth', 'n_quantizers', 'num_quantizers')  # arguments of `encode`

# latents [B, D, T_frames] of codes [B, K, T_frames], which no method of the models gives
_LATENTS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    'xcodec': lambda model, codes: model.quantizer.decode(codes.transpose(0, 1)),
    'higgs_audio_v2_tokenizer': lambda model, codes: model.quantizer.decode(codes.transpose(0, 1)),
    'xcodec2': lambda model, codes: model.quantizer.from_codes(codes.mT).mT,
    'neucodec': lambda model, codes: model.quantizer.from_codes(codes.mT).mT,
}


class AudioTokenizer(TransformersCodec):
    """Any codec of `AutoModelForAudioTokenization`, or X-Codec, discrete or continuous.

    It cannot be trained here, and has no losses. A continuous one has no codes: `forward` and
    `encode_latent` work, and `synthesize` decodes latents. Of the others, some return one more
    frame than T / hop_length, as their feature extractor adds a sample. NeuCodec encodes at another
    rate than it decodes: its input is resampled from the rate of its output.

    Loudness is not changed, though the feature extractor of some types would (VibeVoice: to
    -25 dBFS).

    Args:
        model: a model of `transformers` with `encode` and `decode`.
        extractor: its feature extractor; needed if `encode` takes features beside the waveform, or
            if the configuration has no sampling rate.

    Raises:
        ValueError: the model cannot be run as a codec.
    """

    MODEL_CLASS = 'AutoModelForAudioTokenization'

    def __init__(self, model: nn.Module, extractor: Any = None) -> None:
        # before the base class, which asks for the number of codebooks
        self._layout = calls.look_at(model, extractor)
        super().__init__(model)
        self.extractor = extractor

    @classmethod
    def load(cls, folder: Path) -> 'AudioTokenizer':
        """Load the model in a folder of `transformers`.

        Raises:
            ValueError: transformers is missing or too old, the folder has no such model, or the
                model cannot be run as a codec.
        """
        kind = hub.read_config(folder).get('model_type')
        check_supported(kind, folder)
        # a codec, too, though `transformers` does not list it as a tokenizer
        name = 'XcodecModel' if kind == 'xcodec' else cls.MODEL_CLASS
        model = hub.build_with_transformers(name, folder)
        try:
            return cls(model, calls.make_extractor(model, folder))
        except ValueError as error:
            raise ValueError(f'{folder}: {error}') from error

    def __reduce_ex__(self, protocol: Any) -> Any:
        calls.forget_hooks(self.model)
        return super().__reduce_ex__(protocol)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        calls.register(self.model)

    # ---- figures ---------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """The `model_type` of the configuration."""
        return str(self.model.config.model_type)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""
        return calls.output_rate(self.model, self.extractor)

    @property
    def channels(self) -> int:
        """Channels of the waveforms."""
        return calls.channels(self.model)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self._layout.hop_length

    @property
    def cardinality(self) -> int:
        """Entries of each codebook; 0 for a continuous model."""
        return 0 if self._layout.continuous else calls.cardinality(self.model)

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks; 0 for a continuous model."""
        return 0 if self._layout.continuous else self._layout.size

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts; all of them if not residual."""
        residual = any(name in calls.arguments(self.model) for name in _RESIDUAL)
        if self._layout.continuous or residual:
            return range(1, self.total_codebooks + 1)
        return range(self.total_codebooks, self.total_codebooks + 1)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, one of `possible_num_codebooks`; 0 if it is continuous."""
        if not self._layout.continuous:
            super().set_num_codebooks(n)
        elif n != 0:
            raise ValueError(f'cannot use {n} codebooks: {self._continuous} has none')

    def frames(self, samples: int) -> int:
        """Return the number of frames of an item; see `CompressionModel`."""
        if self.kind in _COMPLETE_FRAMES:
            return samples // self.hop_length + 1
        return super().frames(samples)

    # ---- codec -----------------------------------------------------------------------------------

    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode and decode a waveform [B, C, T]; see `CompressionModel`.

        Latents of a discrete model of a type that is not in `SINCE` have no channels.
        """
        wav = self.check_wav(wav)
        if self._layout.continuous:
            latents, _ = self.encode_latent(wav)
            codes = torch.empty(len(wav), 0, latents.shape[2], dtype=torch.int64, device=wav.device)
            wav_hat = self.synthesize(latents)
        else:
            codes, _ = self.encode(wav)
            known = self.kind in _LATENTS
            latents = self.decode_latent(codes) if known else wav.new_empty(codes[:, :0].shape)
            wav_hat = self.decode(codes)
        bandwidth = torch.full((), self.bandwidth, device=wav.device)
        return CodecOutput(wav_hat[..., : wav.shape[-1]], codes, latents, None, bandwidth, {}, {})

    @torch.no_grad()
    def _encode_batch(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return codes [B, num_codebooks, T_frames], and no scale.

        Raises:
            ValueError: as in `CompressionModel`, or the model is continuous.
        """
        if self._layout.continuous:
            raise ValueError(f'{self._continuous} has latents but no codes: use encode_latent')
        codes = self._encode(self.check_wav(wav)).to(torch.int64)
        return codes[:, : self.num_codebooks], None

    def encode_latent(self, wav: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, None]:
        """Return the latents [B, D, T_frames] of a continuous model, and no scale; differentiable.

        Raises:
            ValueError: as in `CompressionModel`, or the model is not continuous.
        """
        if not self._layout.continuous:
            raise ValueError(
                f'transformers does not give the latents of a {self.kind} before its quantizer: '
                'use encode and decode_latent'
            )
        return self._encode(self.check_wav(wav)), None

    def decode_latent(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents [B, D, T_frames] of codes; see `CompressionModel`.

        Raises:
            ValueError: as there, or the model is continuous, or of a type not in `SINCE`.
        """
        self._check_discrete()
        codes = self.check_codes(codes)
        if self.kind not in _LATENTS:
            raise ValueError(
                f'transformers does not give the latents of the codes of a {self.kind}'
            )
        return _LATENTS[self.kind](self.model, codes)

    def _decode_batch(
        self, codes: torch.Tensor | np.ndarray, scale: torch.Tensor | np.ndarray | None
    ) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length] of codes; see `CompressionModel`.

        Raises:
            ValueError: as there, or the model is continuous.
        """
        self._check_discrete()
        return super()._decode_batch(codes, scale)

    def synthesize(
        self, latents: torch.Tensor, scale: torch.Tensor | np.ndarray | None = None
    ) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length] of the latents of a continuous model.

        Args:
            latents: float [B, D, T_frames], of `encode_latent`.
            scale: must be None.

        Raises:
            ValueError: wrong shape, or the model is not continuous.
        """
        if not self._layout.continuous:
            raise ValueError(f'a {self.kind} decodes codes, not latents: use decode')
        if latents.dim() != 3 or latents.shape[1] != self._layout.size or latents.numel() == 0:
            raise ValueError(
                f'latents have shape {list(latents.shape)}: expected [B, {self._layout.size}, T]'
            )
        return self._decode(latents)

    def _decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return self._decode(codes)

    @property
    def _continuous(self) -> str:
        return f'a {self.kind} is a continuous autoencoder: it'

    def _check_discrete(self) -> None:
        if self._layout.continuous:
            raise ValueError(f'{self._continuous} decodes latents, not codes: use synthesize')

    def _encode(self, wav: torch.Tensor) -> torch.Tensor:
        """Return all codes, or the latents, [B, K or D, T_frames]."""
        rate = calls.input_rate(self.model, self.extractor)
        if self.kind not in _COMPLETE_FRAMES:
            wav = F.pad(wav, (0, -wav.shape[-1] % self.hop_length))
        if rate != self.sample_rate:
            from audiocodec.dsp.resample import resample  # takes long to import

            wav = resample(wav, self.sample_rate, rate)
        found = calls.encode(self.model, self.extractor, wav, rate)[1]
        return found if self._layout.time == 2 else found.mT

    def _decode(self, values: torch.Tensor) -> torch.Tensor:
        """Decode codes or latents [B, K or D, T_frames]; a few missing samples become zeros."""
        length = values.shape[-1] * self.hop_length
        wav = calls.decode(self.model, values if self._layout.time == 2 else values.mT)
        wav = wav.reshape(len(values), self.channels, -1)[..., :length]
        return F.pad(wav, (0, length - wav.shape[-1]))


def is_supported(kind: Any) -> bool:
    """Tell if a `model_type` is one for `AudioTokenizer`, even if `transformers` is too old."""
    return kind in SINCE or kind in _known_types()


def check_supported(kind: Any, folder: Path) -> None:
    """Raise ValueError if the installed `transformers` lacks a type, or is not installed."""
    try:
        transformers = hub.import_transformers()
    except ImportError as error:
        needed = f">={SINCE[kind]}'" if kind in SINCE else "'"
        raise ValueError(
            f'{folder}: a model of type {kind!r} needs the package transformers: pip install '
            f"'transformers{needed}"
        ) from error
    if kind in _known_types() or (kind == 'xcodec' and hasattr(transformers, 'XcodecModel')):
        return
    raise ValueError(
        f'{folder}: a model of type {kind!r} needs transformers {SINCE.get(kind, "")} or later, '
        f"found {transformers.__version__}: pip install 'transformers>={SINCE.get(kind, '')}'"
    )


def _known_types() -> set[str]:
    """Return the types that the installed `transformers` lists as tokenizers of audio."""
    try:
        mapping = hub.import_transformers().MODEL_FOR_AUDIO_TOKENIZATION_MAPPING
    except (ImportError, AttributeError):
        return set()
    return {config.model_type for config in mapping}
