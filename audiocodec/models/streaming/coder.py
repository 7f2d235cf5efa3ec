"""Encoder and decoder of a batch of signals that arrive in pieces."""

import numpy as np
import torch

from audiocodec.models.base import CompressionModel
from audiocodec.models.streaming.networks import decoder_steps, encoder_steps
from audiocodec.models.streaming.stream import Stream

MISSING = -1  # code of a frame that an item does not have
_BLOCK = 2**15  # samples computed at once, so that memory does not grow with the pieces


class StreamingEncoder(Stream):
    """Encoder of waveforms that arrive in pieces of any length, from one sample on.

    The codes of all pieces together are those of `encode` for the whole waveform. Weights and the
    number of codebooks are those that the model had when the encoder was made.

    Args:
        model: a model of which each frame depends on finitely many later samples.
        batch_size: items encoded at the same time.

    Attributes:
        counts: number of frames of each item in the last result. They differ only after a `reset`
            of some items; the frames that an item does not have are -1.

    Raises:
        ValueError: the model needs the whole signal, or a batch without items.
    """

    kind = 'encoder'

    def __init__(self, model: CompressionModel, batch_size: int = 1) -> None:
        network = encoder_steps(model)
        weight = next(model.parameters())
        nothing = torch.empty(1, model.num_codebooks, 0, dtype=torch.int64, device=weight.device)
        super().__init__(network, batch_size, _BLOCK, nothing, MISSING, model.sample_rate)
        self._check = model.check_wav
        self._hop_length = model.hop_length

    @property
    def startup_samples(self) -> int:
        """Samples of a signal that must be known before its first frame comes out.

        Reflected padding at the start needs more than `latency_samples`.
        """
        return self._network.needs(1)

    @property
    def latency_samples(self) -> int:
        """Samples that must be known, from the first one of a frame, before the frame comes out.

        The samples of the frame itself, and those after it that it depends on.
        """
        frame = self.startup_samples  # far from the start
        return self._network.needs(frame + 1) - frame * self._hop_length

    def push(self, values: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Take the next samples of each item.

        Args:
            values: waveforms [B, C, T], T >= 1.

        Returns:
            Codes [B, K, n] of the frames that are complete, n >= 0; see `counts`.

        Raises:
            ValueError: wrong shape, number of channels or items, type or device.
        """
        wav = self._check(values)
        self._check_items('wav', wav)
        return self._feed(wav, [wav.shape[-1]] * len(wav))


class StreamingDecoder(Stream):
    """Decoder of codes that arrive in pieces of any length.

    The samples of all pieces together are those of `decode` for all codes.

    Args:
        model: a model of which each sample depends on finitely many later frames.
        batch_size: items decoded at the same time.

    Attributes:
        counts: number of samples of each item in the last result. They differ only after a `reset`
            of some items; the samples that an item does not have are 0.

    Raises:
        ValueError: the model needs the whole signal, or a batch without items.
    """

    kind = 'decoder'

    def __init__(self, model: CompressionModel, batch_size: int = 1) -> None:
        network = decoder_steps(model)
        weight = next(model.parameters())
        nothing = torch.empty(1, model.channels, 0, dtype=weight.dtype, device=weight.device)
        self._hop_length = model.hop_length * model.output_sample_rate // model.sample_rate
        block = max(1, _BLOCK // self._hop_length)
        super().__init__(network, batch_size, block, nothing, 0, model.output_sample_rate)
        self._check = model.check_codes

    @property
    def latency_samples(self) -> int:
        """Samples by which the output ends before that of the frames so far.

        0 for a decoder without look-ahead, whose frames come out as soon as they arrive.
        """
        frames = self._network.needs(1 + self._hop_length)  # far from the start
        return frames * self._hop_length - self._network.ready(frames)

    def push(self, values: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Take the next frames of each item.

        Args:
            values: codes [B, K, n], n >= 0. Frames of -1 after those of an item are ignored: the
                encoder gives them where items have different numbers of frames.

        Returns:
            Waveform [B, C, T] of the samples that are complete, T >= 0; see `counts`.

        Raises:
            ValueError: wrong shape, number of items, type or device, or codes out of range.
        """
        codes = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if not isinstance(codes, torch.Tensor) or codes.dim() != 3:
            self._check(codes)  # says what is wrong
        self._check_items('codes', codes)
        if codes.shape[-1] == 0:
            return self._feed(None, [0] * len(codes))
        counts = (codes != MISSING).all(dim=1).sum(dim=1)
        own = torch.arange(codes.shape[-1], device=codes.device) < counts[:, None]
        codes = self._check(codes.where(own[:, None], 0))
        return self._feed(codes, counts.tolist())
