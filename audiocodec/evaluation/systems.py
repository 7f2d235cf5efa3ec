"""Interface of the systems that are compared: neural codecs and classical ones, at some rates."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from audiocodec.data import convert_audio


class Rendition(NamedTuple):
    """Reconstruction of a batch at one rate.

    Attributes:
        rate: the rate by which the system is called in tables: its nominal bit rate, kbps.
        wav: [B, C, T], like the reference.
        kbps: measured bit rate, kbps.
        encode_seconds: time of encoding.
        decode_seconds: time of decoding.
        delay: samples by which the reconstruction was late, and was moved back.
        codes: int64 [B, K, T_frames]; None for a classical codec.
    """

    rate: float
    wav: torch.Tensor
    kbps: float
    encode_seconds: float
    decode_seconds: float
    delay: int = 0
    codes: torch.Tensor | None = None


class System(ABC):
    """Encodes and decodes audio at several rates.

    Attributes:
        name: name in tables.
        rates: nominal bit rates, kbps, ascending.
        sample_rate: of its own audio, Hz.
        channels: of its own audio; None: those of the reference.
    """

    name: str
    rates: list[float]
    sample_rate: int
    channels: int | None

    @abstractmethod
    def reconstruct(self, wav: torch.Tensor, sample_rate: int) -> Iterator[Rendition]:
        """Reconstruct a batch at each rate.

        Args:
            wav: [B, C, T], all items of the same length, without padding.
            sample_rate: Hz; audio is converted to the rate and channels of the system, and back.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return facts about the system, for reports: plain values by name."""

    def check_channels(self, channels: int) -> None:  # noqa: B027 - by default, any is fine
        """Check the number of channels of the reference.

        Raises:
            ValueError: the system cannot take it.
        """

    def to_own(self, wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """Convert audio [B, C, T] to the rate and channels of the system."""
        channels = self.channels or wav.shape[-2]
        return convert_audio(wav, sample_rate, self.sample_rate, channels)

    def to_reference(
        self, wav: torch.Tensor, reference: torch.Tensor, sample_rate: int
    ) -> torch.Tensor:
        """Convert audio of the system to the rate, channels and length of the reference."""
        wav = convert_audio(wav, self.sample_rate, sample_rate, reference.shape[-2])
        return fit(wav, reference.shape[-1])


def fit(wav: torch.Tensor, length: int) -> torch.Tensor:
    """Cut a waveform [..., T], or add zeros, to a length in samples."""
    missing = length - wav.shape[-1]
    return torch.nn.functional.pad(wav, (0, missing)) if missing > 0 else wav[..., :length]
