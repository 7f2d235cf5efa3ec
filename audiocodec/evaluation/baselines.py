"""Classical codecs as systems to evaluate: Opus and MP3 by libsndfile, AAC by PyAV.

They work at sample rates of their own. Each encodes audio clipped to full scale (Opus returns
louder audio than it gets beyond that), one item at a time. The reconstruction is aligned with the
reference: Opus is some samples late or early at low rates, and AAC begins with 1024 samples of
padding.
"""

import io
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import torch

from audiocodec.evaluation.systems import Rendition, System, fit
from audiocodec.utils.errors import require

MAX_DELAY = 0.05  # seconds by which a reconstruction may be late or early


class Baseline(System):
    """A classical codec at some bit rates.

    Args:
        kbps: bit rates of all channels together, kbps.
        sample_rate: at which it encodes, Hz.

    Raises:
        ValueError: a rate that the codec does not have.
    """

    def __init__(self, kbps: Sequence[float], sample_rate: int) -> None:
        low, high = self.accepted
        for rate in kbps:
            if not low <= rate <= high:
                raise ValueError(f'{self.name} has rates from {low:g} to {high:g} kbps, not {rate}')
        self.rates = sorted(set(map(float, kbps)))
        self.sample_rate = sample_rate
        self.channels = None

    accepted: tuple[float, float]  # lowest and highest rate, kbps
    max_channels = 2

    def check_channels(self, channels: int) -> None:
        """See `System.check_channels`."""
        if channels > self.max_channels:
            raise ValueError(
                f'{self.name} takes at most {self.max_channels} channels, and the audio has '
                f'{channels}: leave out --{self.name.lower()}'
            )

    @abstractmethod
    def code(self, wav: np.ndarray, rate: float) -> tuple[Any, int]:
        """Encode a waveform [T, C]; return what `decode` needs, and the bytes of its payload."""

    @abstractmethod
    def decode(self, coded: Any) -> np.ndarray:
        """Decode to a waveform [T, C], of about the same length."""

    def reconstruct(self, wav: torch.Tensor, sample_rate: int) -> Iterator[Rendition]:
        """See `System.reconstruct`."""
        assert len(wav) == 1, 'classical codecs take one item at a time'
        self.check_channels(wav.shape[1])
        own = self.to_own(wav[0], sample_rate).clamp(-1, 1).cpu()
        seconds = own.shape[-1] / self.sample_rate
        for rate in self.rates:
            begin = time.perf_counter()
            coded, payload = self.code(own.T.numpy(), rate)
            middle = time.perf_counter()
            decoded = torch.from_numpy(self.decode(coded)).float().T
            end = time.perf_counter()
            aligned, delay = align(decoded, own, round(MAX_DELAY * self.sample_rate))
            yield Rendition(
                rate,
                self.to_reference(aligned[None], wav, sample_rate),
                payload * 8 / 1000 / seconds,
                middle - begin,
                end - middle,
                delay,
            )

    def describe(self) -> dict[str, Any]:
        """See `System.describe`."""
        return {'kind': type(self).__name__, 'sample_rate': self.sample_rate}


class Opus(Baseline):
    """Opus in Ogg, with a variable rate; the measured rate is that of its packets alone.

    Args:
        kbps: see `Baseline`.
    """

    name = 'Opus'
    accepted = (6.0, 256.0)
    max_channels = 5  # from 6 on, one is taken for the low-frequency effects of surround sound

    def __init__(self, kbps: Sequence[float]) -> None:
        super().__init__(kbps, 48000)

    def check_channels(self, channels: int) -> None:
        """See `System.check_channels`; the lowest rate is that of one channel times their number.

        Raises:
            ValueError: too many channels, or a rate too low for them.
        """
        super().check_channels(channels)
        lowest = channels * self.accepted[0]
        if self.rates[0] < lowest:
            raise ValueError(
                f'Opus has rates from {lowest:g} kbps with {channels} channels, not '
                f'{self.rates[0]:g}: raise those of --opus'
            )

    def code(self, wav: np.ndarray, rate: float) -> tuple[bytes, int]:
        """See `Baseline.code`."""
        # libsndfile maps level 0 to 256 and 1 to 6 kbps a channel
        level = 1 - (rate / wav.shape[1] - 6) / 250
        data = _written(wav, self.sample_rate, 'OGG', 'OPUS', compression_level=level)
        return data, ogg_payload(data)

    def decode(self, coded: bytes) -> np.ndarray:
        """See `Baseline.decode`."""
        return _read(coded)


class MP3(Baseline):
    """MP3 of constant rate, by LAME.

    Args:
        kbps: see `Baseline`.
        sample_rate: Hz: 32000, 44100 or 48000.
    """

    name = 'MP3'
    accepted = (32.0, 320.0)

    def __init__(self, kbps: Sequence[float], sample_rate: int = 44100) -> None:
        super().__init__(kbps, sample_rate)

    def code(self, wav: np.ndarray, rate: float) -> tuple[bytes, int]:
        """See `Baseline.code`."""
        # libsndfile maps level 0 to 320 and 1 to 32 kbps, and takes the nearest rate of the
        # format; it refuses 1 itself
        level = min(1 - (rate - 32) / 288, 0.999)
        data = _written(
            wav,
            self.sample_rate,
            'MP3',
            'MPEG_LAYER_III',
            compression_level=level,
            bitrate_mode='CONSTANT',
        )
        return data, len(data)

    def decode(self, coded: bytes) -> np.ndarray:
        """See `Baseline.decode`."""
        return _read(coded)


class AAC(Baseline):
    """AAC (low complexity) by FFmpeg's encoder, through PyAV: needs the extra `av`.

    Args:
        kbps: see `Baseline`.
        sample_rate: Hz.
    """

    name = 'AAC'
    accepted = (8.0, 320.0)

    def __init__(self, kbps: Sequence[float], sample_rate: int = 44100) -> None:
        require('AAC', 'av', 'av')
        super().__init__(kbps, sample_rate)

    def code(self, wav: np.ndarray, rate: float) -> tuple[Any, int]:
        """See `Baseline.code`."""
        import av

        encoder = av.CodecContext.create('aac', 'w')
        encoder.sample_rate = self.sample_rate
        encoder.layout = 'mono' if wav.shape[1] == 1 else 'stereo'
        encoder.format = 'fltp'
        encoder.bit_rate = round(rate * 1000)
        encoder.open()
        packets = []
        size = encoder.frame_size
        for start in range(0, len(wav), size):
            block = fit(torch.from_numpy(wav[start : start + size].T.copy()), size).numpy()
            frame = av.AudioFrame.from_ndarray(block, 'fltp', encoder.layout.name)
            frame.sample_rate = self.sample_rate
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        coded = (encoder.extradata, [bytes(packet) for packet in packets], wav.shape[1])
        return coded, sum(len(packet) for packet in coded[1])

    def decode(self, coded: Any) -> np.ndarray:
        """See `Baseline.decode`."""
        import av

        extradata, packets, channels = coded
        decoder = av.CodecContext.create('aac', 'r')
        decoder.extradata = extradata
        decoder.sample_rate = self.sample_rate
        decoder.layout = 'mono' if channels == 1 else 'stereo'
        frames = [frame for packet in packets for frame in decoder.decode(av.Packet(packet))]
        frames += decoder.decode(None)
        return np.concatenate([frame.to_ndarray().T for frame in frames])


def align(wav: torch.Tensor, reference: torch.Tensor, reach: int) -> tuple[torch.Tensor, int]:
    """Move a waveform to where it agrees best with a reference (largest correlation).

    Args:
        wav: [C, T1].
        reference: [C, T].
        reach: largest delay, in samples.

    Returns:
        [C, T], zeros where there is nothing, and the delay that was removed, in samples.
    """
    length = reference.shape[-1]
    size = 1 << (max(wav.shape[-1], length) + reach).bit_length()
    spectrum = torch.fft.rfft(wav.double().sum(0), size)
    other = torch.fft.rfft(reference.double().sum(0), size)
    correlation = torch.fft.irfft(spectrum * other.conj(), size)
    lags = torch.cat([correlation[-reach:], correlation[: reach + 1]])
    delay = int(lags.argmax()) - reach if lags.max() > 0 else 0
    moved = wav[:, delay:] if delay >= 0 else torch.nn.functional.pad(wav, (-delay, 0))
    return fit(moved, length), delay


def ogg_payload(data: bytes) -> int:
    """Return the bytes of the audio packets of an Ogg Opus file: without pages and two headers.

    Pages and headers of a short file are 1 to 2.5 kbps on top (RFC 3533, section 6; RFC 7845).
    """
    packets, position, open_bytes = [], 0, 0
    while position < len(data):
        count = data[position + 26]
        laces = data[position + 27 : position + 27 + count]
        for lace in laces:
            open_bytes += lace
            if lace < 255:  # the end of a packet
                packets.append(open_bytes)
                open_bytes = 0
        position += 27 + count + sum(laces)
    return sum(packets[2:])


def _written(wav: np.ndarray, sample_rate: int, container: str, subtype: str, **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, sample_rate, format=container, subtype=subtype, **how)
    return file.getvalue()


def _read(data: bytes) -> np.ndarray:
    wav: np.ndarray = soundfile.read(io.BytesIO(data), dtype='float32', always_2d=True)[0]
    return wav
