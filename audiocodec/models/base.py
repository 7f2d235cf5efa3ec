"""What every compression model offers, whatever its architecture."""

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch

from audiocodec.quantization import BaseQuantizer
from audiocodec.utils.parametrizations import PicklableModule, fold


class CodecOutput(NamedTuple):
    """Result of running a waveform through a compression model.

    Attributes:
        wav: reconstruction, float [B, C, T], the length of the input.
        codes: int64 [B, K, T_frames], K being the codebooks used for this batch.
        latents: what the decoder received, float [B, D, T_frames]: quantized, if the model quantizes.
        scale: float [B, 1], by which the waveform was divided before the encoder, [B, N] where each of N segments is;
            None if the model does not divide.
        bandwidth: of the codes, in kbps, 0-d.
        commitment_loss: distance of the encoder's latents from the codebooks, 0-d; to be added to the training loss.
        metrics: further figures to log, 0-d, or 1-d for one a codebook, left on the device.
    """

    wav: torch.Tensor
    codes: torch.Tensor
    latents: torch.Tensor
    scale: torch.Tensor | None
    bandwidth: torch.Tensor
    commitment_loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class CompressionModel(PicklableModule, ABC):
    """Waveform to discrete codes and back.

    Waveforms are float [B, C, T], in [-1, 1], with C = `channels`, at `sample_rate` (Hz). Codes are int64
    [B, K, T_frames], from 0 to `cardinality` - 1, with T_frames = ceil(T / hop_length); segments that overlap (see
    `EncodecModel`) give some more. Latents are float [B, D, T_frames].

    Attributes:
        built_from: the `_target_` node that `utils.config.build` made the model of, which exports need; None where the
            model was put together by hand.
    """

    built_from: dict[str, Any] | None = None

    @abstractmethod
    def forward(self, wav: torch.Tensor) -> CodecOutput:
        """Encode, quantize and decode a waveform [B, C, T] of any length.

        Raises:
            ValueError: wrong shape, number of channels, type or device.
        """

    @abstractmethod
    def encode(self, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode a waveform [B, C, T] of any length, with the active codebooks.

        Returns:
            codes [B, num_codebooks, T_frames], and scale [B, 1], or [B, segments], or None if the model does not
            renormalise.

        Raises:
            ValueError: wrong shape, number of channels, type or device.
        """

    @abstractmethod
    def decode(self, codes: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Decode codes [B, K, T_frames], 1 <= K <= total_codebooks, and the scale given by `encode`, if any.

        Returns:
            Waveform [B, C, T_frames * hop_length], less where segments overlap: cut it to the length of the original.

        Raises:
            ValueError: wrong shape, type or device, or codes out of range.
        """

    @abstractmethod
    def decode_latent(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents [B, D, T_frames] of the codes [B, K, T_frames], 1 <= K <= total_codebooks.

        Raises:
            ValueError: wrong shape, type or device, or codes out of range.
        """

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""

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
        """Codebooks in use."""

    @property
    @abstractmethod
    def total_codebooks(self) -> int:
        """Codebooks there are."""

    @abstractmethod
    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, 1 <= n <= total_codebooks.

        Raises:
            ValueError: `n` out of range.
        """

    @property
    def frame_rate(self) -> float:
        """Frames per second (Hz)."""
        return self.sample_rate / self.hop_length

    @property
    def bandwidth(self) -> float:
        """Bit rate of the codes in use, without entropy coding (kbps)."""
        if self.cardinality == 0:
            return 0.
        return self.num_codebooks * math.log2(self.cardinality) * self.frame_rate / 1000

    @staticmethod
    def get_pretrained(name: str, device: str | torch.device = 'cpu') -> 'CompressionModel':
        """Load a model for inference.

        Args:
            name: a name such as `facebook/encodec_32khz`, or the path of an exported model.
            device: where to put it.

        Raises:
            ValueError: unknown name, or a file that holds no such model.
        """
        from .pretrained import load  # late: it imports every format, and so this module
        return load(name, device)

    def for_inference(self) -> 'CompressionModel':
        """A copy that computes the same, made to run only: in eval mode, without gradients, and smaller.

        Normalised weights are folded into plain ones, and the statistics that codebooks are learnt with are dropped. It
        cannot be trained, and its weights are for itself alone; the model stays as it is.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in model.modules():
            fold(module)
            if isinstance(module, BaseQuantizer):
                module.drop_statistics()
        return model

    def for_cpu(self) -> 'CompressionModel':
        """A copy as `for_inference` makes, laid out for speed on a CPU, with memory that hardly grows with the length.

        What it computes of a long signal is done part by part, where normalisation and padding allow it.
        Its results differ from the model's by float rounding, so that a code between two nearly equal ones may, rarely,
        be the other. Its weights have other names and shapes: it cannot be exported.
        """
        from .cpu import for_cpu  # late: it imports this module
        return for_cpu(self)

    def check_wav(self, wav: torch.Tensor) -> None:
        """Check the input of `forward` and `encode`, without waiting for the device.

        Raises:
            ValueError: wrong shape, number of channels, type or device.
        """
        if wav.dim() != 3 or wav.shape[1] != self.channels or wav.numel() == 0:
            raise ValueError(f'wav has shape {list(wav.shape)}: expected [B, {self.channels}, T] (items, channels, '
                             f'samples), none of them 0. Use wav[None] for a single item, and convert the channels.')
        if not wav.is_floating_point():
            raise ValueError(f'wav has type {wav.dtype}: expected floats in [-1, 1]. '
                             f'Divide integers by their full scale, such as 32768 for 16 bits.')
        parameter = next(self.parameters(), None)
        if parameter is None:
            return
        if wav.device != parameter.device:
            raise ValueError(f'wav is on {wav.device} and the model on {parameter.device}: move one with .to(device).')
        if wav.dtype != parameter.dtype and not torch.is_autocast_enabled(wav.device.type):
            raise ValueError(f'wav has type {wav.dtype} and the model {parameter.dtype}: convert one with .to(dtype), '
                             f'or run under torch.autocast.')

    def check_codes(self, codes: torch.Tensor) -> None:
        """Check the input of `decode` and `decode_latent`. Reads the range of the codes: waits for the device.

        Raises:
            ValueError: wrong shape, type or device, or codes out of range.
        """
        if codes.dim() != 3 or codes.numel() == 0 or codes.shape[1] > self.total_codebooks:
            raise ValueError(f'codes have shape {list(codes.shape)}: expected [B, K, T] (items, codebooks, frames), '
                             f'none of them 0, with K from 1 to {self.total_codebooks}.')
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f'codes have type {codes.dtype}: expected integers, as given by encode.')
        parameter = next(self.parameters(), None)
        if parameter is not None and codes.device != parameter.device:
            raise ValueError(f'codes are on {codes.device} and the model on {parameter.device}: '
                             f'move one with .to(device).')
        lowest, highest = torch.stack(torch.aminmax(codes)).tolist()
        if lowest < 0 or highest >= self.cardinality:
            raise ValueError(f'codes go from {lowest} to {highest}: expected 0 to {self.cardinality - 1}.')
