"""Interface of compression models."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.models import padded
from audiocodec.models.padded import Lengths
from audiocodec.models.streaming.interface import Streaming
from audiocodec.modules.parametrizations import PicklableModule, fold
from audiocodec.quantization import BaseQuantizer, check_codes
from audiocodec.quantization.usage import DrawCounter

_FLOATS = ('float16', 'float32', 'float64')  # NumPy types
_ROUNDING = 1e-3  # relative rounding of displayed bandwidths


class CodecOutput(NamedTuple):
    """Result of running a waveform through a compression model.

    Attributes:
        wav: reconstruction, float [B, C, T], as long as the input.
        codes: int64 [B, K, T_frames], K = number of codebooks used for this batch.
        latents: input of the decoder, float [B, D, T_frames]; quantized, if the model quantizes.
        scale: divisor of the waveform before the encoder, float [B, 1], or [B, N] for N segments;
            None if the model does not renormalize.
        bandwidth: bit rate of the codes in kbps, 0-d.
        losses: 0-d tensors by name, those of `CompressionModel.loss_terms`, such as `commitment`,
            the distance of the encoder's latents from the codebooks; each has a weight in the
            training loss.
        metrics: further values to log, 0-d, or 1-d with one per codebook, left on the device.
        features: further tensors with a gradient, by name; see `QuantizedResult`.
    """

    wav: torch.Tensor
    codes: torch.Tensor
    latents: torch.Tensor
    scale: torch.Tensor | None
    bandwidth: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    metrics: Mapping[str, torch.Tensor]
    features: Mapping[str, torch.Tensor] = {}


class CompressionModel(Streaming, PicklableModule, ABC):
    """Codec: converts waveforms to discrete codes and back.

    Waveforms are float [B, C, T], in [-1, 1], with C = `channels`, at `sample_rate` (Hz). Codes are
    int64 [B, K, T_frames], from 0 to `cardinality` - 1, with T_frames = ceil(T / hop_length);
    some models have a few more, see `frames`. Latents are float [B, D, T_frames].

    Inputs may also be NumPy arrays: waveforms and scales of any float type, codes of any integer
    type. Arrays are moved to the device of the model, and floats converted to its type. Tensors
    must be on that device already.

    A model can be copied (`copy.deepcopy`), pickled, saved by `torch.save`, loaded by `torch.load`
    with `weights_only=False`, and sent to another process. All of its state is kept, except that it
    was compiled.

    Attributes:
        built_from: the `_target_` node from which `utils.config.build` built the model, needed by
            exports; None for a model built by hand.
    """

    built_from: dict[str, Any] | None = None
    _frozen: tuple[str, ...] = ()

    def train_only(self, parts: Sequence[str]) -> None:
        """Freeze all other submodules: they get no gradient and stay in eval mode.

        Their state remains the same bit by bit, that of codebooks included. Only draws of the
        quantizer, such as the number of codebooks, are those of training, and counted.

        Args:
            parts: names of submodules, such as `decoder`.
        """
        self._frozen = tuple(name for name, _ in self.named_children() if name not in parts)
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'CompressionModel':
        """Set training or eval mode; frozen parts stay in eval mode, except counters of draws."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        for counter in self._draw_counters().values():
            counter.train(mode)
        return self

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the frozen parts but for counters; empty if there are none."""
        prefixes = tuple(f'{name}.' for name in self._frozen)
        counters = {f'{name}.updates' for name in self._draw_counters()}
        state = self.state_dict() if prefixes else {}
        return {
            name: value
            for name, value in state.items()
            if name.startswith(prefixes) and name not in counters
        }

    def _draw_counters(self) -> dict[str, DrawCounter]:
        """Return the quantizer's counters of random draws, by their names in the model."""
        return {
            name: module for name, module in self.named_modules() if isinstance(module, DrawCounter)
        }

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the losses in the output of `forward`; none by default."""
        return ()

    @property
    def unused_codes_advice(self) -> str:
        """What to try if few entries of the codebooks are used; see `BaseQuantizer`."""
        return ''

    @property
    def compiled_parts(self) -> Sequence[nn.Module]:
        """Submodules that training compiles, one by one; none by default."""
        return ()

    @abstractmethod
    def forward(self, wav: torch.Tensor | np.ndarray) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, C, T] of any length.

        The waveform and the reconstruction are at `output_sample_rate`.

        Raises:
            ValueError: wrong shape, number of channels, type or device.
        """

    def encode(
        self, wav: torch.Tensor | np.ndarray, lengths: Lengths | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode a waveform [B, C, T] of any length, with the active codebooks.

        With `lengths`, each item gets the codes and the scale that it would get alone, whatever is
        in its padding. Its codes and scales end in zeros; `frames` tells how many are its own. For
        that, items of different lengths are computed one after the other: no faster than alone. On
        a GPU, items of equal length share a computation, which may round differently.

        Args:
            wav: the waveform, padded to the longest item if there are `lengths`.
            lengths: samples of each item, integers [B]; None: all have T samples.

        Returns:
            codes [B, num_codebooks, T_frames], and scale [B, 1], or [B, segments], or None if the
            model does not renormalize.

        Raises:
            ValueError: wrong shape, number of channels, type or device, or lengths out of range.
        """
        if lengths is None:
            return self._encode_batch(wav)
        wav = self.check_wav(wav)
        return padded.encode(self._encode_batch, wav, lengths)

    @abstractmethod
    def _encode_batch(
        self, wav: torch.Tensor | np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode a waveform whose items all have T samples, see `encode`; for subclasses."""

    @abstractmethod
    def encode_latent(
        self, wav: torch.Tensor | np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode a waveform [B, C, T] of any length without quantizing it; differentiable.

        Returns:
            The input of the quantizer, float [B, D, T_frames] (`decode_latent` returns its output),
            and the scale for `decode`, see `encode`.

        Raises:
            ValueError: wrong shape, number of channels, type or device.
        """

    def decode(
        self,
        codes: torch.Tensor | np.ndarray,
        scale: torch.Tensor | np.ndarray | None = None,
        lengths: Lengths | None = None,
    ) -> torch.Tensor:
        """Decode codes [B, K, T_frames], 1 <= K <= total_codebooks, and the scale from `encode`.

        With `lengths`, each item gets the waveform that it would get alone, followed by zeros,
        whatever is in its padding; see `encode` for the price.

        Args:
            codes: the codes, padded to the longest item if there are `lengths`.
            scale: the scale from `encode`, None without any.
            lengths: frames of each item, integers [B]; None: all have T_frames.

        Returns:
            Waveform [B, C, T_frames * hop_length], shorter if segments overlap: cut it to the
            length of the original. At a higher `output_sample_rate`, it is longer accordingly.

        Raises:
            ValueError: wrong shape, type or device, or codes or lengths out of range.
        """
        if lengths is None:
            return self._decode_batch(codes, scale)
        if not isinstance(codes, torch.Tensor | np.ndarray) or codes.ndim != 3:
            codes = self.check_codes(codes)  # raises; the codes in the padding are not checked
        if scale is not None:
            scale = self._to_floats('scale', scale, 'as returned by encode')
        alone = self._weight().device.type == 'cpu'
        return padded.decode(self._decode_batch, self.num_scales, codes, scale, lengths, alone)

    @abstractmethod
    def _decode_batch(
        self, codes: torch.Tensor | np.ndarray, scale: torch.Tensor | np.ndarray | None
    ) -> torch.Tensor:
        """Decode codes whose items all have T_frames, see `decode`; for subclasses."""

    def frames(self, samples: int) -> int:
        """Return the number of frames of the codes of an item with so many samples, from 1 up."""
        return -(-samples // self.hop_length)

    def num_scales(self, frames: int) -> int:
        """Return the number of scales of an item with so many frames, if it is renormalized."""
        return 1

    @abstractmethod
    def decode_latent(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents [B, D, T_frames] of codes [B, K, T_frames], 1 <= K <= total_codebooks.

        Raises:
            ValueError: wrong shape, type or device, or codes out of range.
        """

    def synthesize(
        self, latents: torch.Tensor, scale: torch.Tensor | np.ndarray | None = None
    ) -> torch.Tensor:
        """Decode latents instead of codes, such as those that a diffusion model generates.

        Args:
            latents: float [B, D, T_frames], as `encode_latent` returns them for a continuous model,
                and `decode_latent` for one with codes.
            scale: see `decode`.

        Returns:
            Waveform, see `decode`.

        Raises:
            ValueError: wrong shape or type, or the model decodes codes only.
        """
        raise ValueError(f'this {type(self).__name__} decodes codes only: use decode(codes)')

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""

    @property
    def output_sample_rate(self) -> int:
        """Samples per second of reconstructions (Hz): `sample_rate`, or above it.

        `forward` takes waveforms at this rate, too, and converts them for the encoder; `encode`
        takes them at `sample_rate`.
        """
        return self.sample_rate

    def at_input_rate(self, wav: torch.Tensor) -> torch.Tensor:
        """Resample a waveform from `output_sample_rate` to `sample_rate`.

        Args:
            wav: [B, C, T].

        Returns:
            [B, C, ceil(T * sample_rate / output_sample_rate)].
        """
        old, new = self.output_sample_rate, self.sample_rate
        if old == new:
            return wav
        from audiocodec.dsp.resample import resample  # takes long to import

        return resample(F.pad(wav, (0, -wav.shape[-1] % (old // math.gcd(old, new)))), old, new)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the waveforms."""

    @property
    @abstractmethod
    def hop_length(self) -> int:
        """Samples per frame."""

    @property
    @abstractmethod
    def cardinality(self) -> int:
        """Entries of each codebook; 0 for a model that does not quantize."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""

    @property
    @abstractmethod
    def total_codebooks(self) -> int:
        """Total number of codebooks."""

    @abstractmethod
    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, 1 <= n <= total_codebooks.

        Raises:
            ValueError: `n` out of range.
        """

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts, ascending; empty without any."""
        return range(1, self.total_codebooks + 1)

    def set_bandwidth(self, kbps: float) -> None:
        """Use as many codebooks as a bandwidth allows.

        Args:
            kbps: kilobits per second. May be up to 0.1 % below an exact bandwidth, to allow for
                rounding: 7.75 for 7.752.

        Raises:
            ValueError: below the lowest bandwidth of the model, or the model does not quantize.
        """
        if self.cardinality == 0:
            raise ValueError(
                f'cannot set the bandwidth to {kbps} kbps: this model does not quantize'
            )
        possible = {n: self.bandwidth_of(n) for n in self.possible_num_codebooks}
        allowed = [n for n, bandwidth in possible.items() if bandwidth <= kbps * (1 + _ROUNDING)]
        if not allowed:
            listed = ', '.join(f'{bandwidth:g}' for bandwidth in possible.values())
            raise ValueError(
                f'{kbps} kbps is below the lowest bandwidth of this model: use one of {listed}'
            )
        self.set_num_codebooks(allowed[-1])

    @property
    def frame_rate(self) -> float:
        """Frames per second (Hz)."""
        return self.sample_rate / self.hop_length

    @property
    def bandwidth(self) -> float:
        """Bit rate of the codes in use, without entropy coding (kbps)."""
        return self.bandwidth_of(self.num_codebooks)

    def bandwidth_of(self, num_codebooks: int) -> float:
        """Return the bit rate with the first `num_codebooks` codebooks (kbps)."""
        if self.cardinality == 0:
            return 0.0
        return num_codebooks * math.log2(self.cardinality) * self.frame_rate / 1000

    @staticmethod
    def get_pretrained(name: str, device: str | torch.device = 'cpu') -> 'CompressionModel':
        """Load a model for inference.

        Args:
            name: a name such as `audiocodec/small_24khz`, or the path of an exported model.
            device: device of the model.

        Raises:
            ValueError: unknown name, or a file that is not a model.
        """
        # not at the top: it imports every format, and these import this module
        from audiocodec.models.pretrained import load

        return load(name, device)

    def for_inference(self) -> 'CompressionModel':
        """Return a smaller copy for inference only: in eval mode, without gradients, same results.

        Normalized weights are folded into plain ones, and the statistics of the codebooks are
        dropped. The copy cannot be trained, and its weights do not load into other models. This
        model is not changed.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in model.modules():
            fold(module)
            if isinstance(module, BaseQuantizer):
                module.drop_statistics()
        return model

    def for_cpu(self) -> 'CompressionModel':
        """Return a copy like that of `for_inference`, optimized for CPUs.

        A long signal is computed part by part, where normalization and padding allow it, so that
        memory hardly grows with its length. Results differ from this model's by float rounding;
        rarely, this decides between two equally near codebook entries. Weights have other names and
        shapes, so the copy cannot be exported.
        """
        from audiocodec.models.cpu.seanet import for_cpu  # not at the top: it imports this module

        return for_cpu(self)

    def check_wav(self, wav: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Check the input of `forward` and `encode`, without a device synchronization.

        Returns:
            The waveform as a tensor, float [B, C, T].

        Raises:
            ValueError: wrong shape, number of channels, type or device.
        """
        wav = self._to_floats(
            'wav',
            wav,
            'in [-1, 1]. Divide integers by their full scale, e.g. 32768 for 16 bits',
        )
        if wav.dim() != 3 or wav.shape[1] != self.channels or wav.numel() == 0:
            raise ValueError(
                f'wav has shape {list(wav.shape)}: expected [B, {self.channels}, T] '
                f'(items, channels, samples), none of them 0. Use wav[None] for a single item, '
                f'and convert the channels if needed'
            )
        dtype = self._weight().dtype
        if wav.dtype != dtype and not torch.is_autocast_enabled(wav.device.type):
            raise ValueError(
                f'wav has type {wav.dtype} but the model has {dtype}: convert one of them with '
                f'.to(dtype), or use torch.autocast'
            )
        return wav

    def check_codes(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Check the input of `decode` and `decode_latent`; its range, too, so the device is synced.

        Returns:
            The codes as a tensor, int64 [B, K, T_frames].

        Raises:
            ValueError: wrong shape, type or device, or codes out of range.
        """
        codes = check_codes(codes, self.total_codebooks, self.cardinality, self._weight().device)
        if codes.numel() == 0:
            raise ValueError(
                f'codes have shape {list(codes.shape)}: expected [B, K, T] (items, '
                f'codebooks, frames), none of them 0'
            )
        return codes

    def _to_floats(self, name: str, values: Any, which: str) -> torch.Tensor:
        """Return floats as a tensor; arrays get the type and the device of the model."""
        if not isinstance(values, torch.Tensor | np.ndarray):
            raise ValueError(
                f'{name} is a {type(values).__name__}: expected a tensor or NumPy array of '
                f'floats {which}'
            )
        weight = self._weight()
        if isinstance(values, np.ndarray) and values.dtype.newbyteorder('=').name in _FLOATS:
            return torch.from_numpy(values.astype(values.dtype.newbyteorder('='))).to(weight)
        if isinstance(values, np.ndarray) or not values.is_floating_point():
            raise ValueError(f'{name} has type {values.dtype}: expected floats {which}')
        if values.device != weight.device:
            raise ValueError(
                f'{name} is on {values.device} but the model is on {weight.device}: move one of '
                f'them with .to(device)'
            )
        return values

    def _weight(self) -> torch.Tensor:
        """Return a tensor with the type and device of the model."""
        return next(self.parameters(), torch.empty(0))
