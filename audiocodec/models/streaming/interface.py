"""Methods of compression models for streams and long files."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast, overload

import torch

if TYPE_CHECKING:
    from audiocodec.models.streaming.stream import Stream

Coded = tuple[torch.Tensor, torch.Tensor | None]  # what `encode` returns: codes and scale


class Streaming:
    """What every compression model can do with a signal in pieces."""

    def streaming_encoder(self, batch_size: int = 1) -> 'Stream':
        """Return an encoder of waveforms that arrive in pieces; see `StreamingEncoder`.

        Raises:
            ValueError: the model needs the whole signal.
        """
        from audiocodec.models.streaming.coder import StreamingEncoder  # it imports the models

        return StreamingEncoder(cast(Any, self), batch_size)

    def streaming_decoder(self, batch_size: int = 1) -> 'Stream':
        """Return a decoder of codes that arrive in pieces; see `StreamingDecoder`.

        Raises:
            ValueError: the model needs the whole signal.
        """
        from audiocodec.models.streaming.coder import StreamingDecoder  # it imports the models

        return StreamingDecoder(cast(Any, self), batch_size)

    @overload
    def encode_long(self, wav: torch.Tensor, chunk_seconds: float = 10.0) -> Coded: ...

    @overload
    def encode_long(
        self, wav: Iterable[torch.Tensor], chunk_seconds: float = 10.0
    ) -> Iterator[Coded]: ...

    def encode_long(
        self, wav: torch.Tensor | Iterable[torch.Tensor], chunk_seconds: float = 10.0
    ) -> Coded | Iterator[Coded]:
        """Return what `encode` does, with memory that does not grow with the length.

        Args:
            wav: [B, C, T] of any length; or the chunks of such a waveform, [B, C, T_i] each, of any
                lengths, such as blocks read from a file.
            chunk_seconds: seconds that are encoded at once, of a waveform.

        Returns:
            Codes and scale of a waveform. For chunks, an iterator of codes [B, K, n] and scale of
            the next frames; with segments, of one segment each. No waveform is held then.

        Raises:
            ValueError: the model needs the whole signal, or a wrong input.
        """
        from audiocodec.models.streaming import long  # it imports the models

        model = cast(Any, self)
        if isinstance(wav, Iterable) and not hasattr(wav, 'shape'):
            return long.encoded(model, wav)
        return long.encode_long(model, cast(torch.Tensor, wav), chunk_seconds)

    @overload
    def decode_long(
        self,
        codes: torch.Tensor,
        scale: torch.Tensor | None = None,
        chunk_seconds: float = 10.0,
    ) -> torch.Tensor: ...

    @overload
    def decode_long(
        self, codes: Iterable[Coded], scale: None = None, chunk_seconds: float = 10.0
    ) -> Iterator[torch.Tensor]: ...

    def decode_long(
        self,
        codes: torch.Tensor | Iterable[Coded],
        scale: torch.Tensor | None = None,
        chunk_seconds: float = 10.0,
    ) -> torch.Tensor | Iterator[torch.Tensor]:
        """Return what `decode` does, with memory that does not grow with the length.

        Args:
            codes: [B, K, T_frames]; or an iterable of codes and scale of the next frames, as
                `encode_long` gives for chunks.
            scale: see `decode`; that of an iterable is in it.
            chunk_seconds: seconds that are decoded at once, of a tensor of codes.

        Returns:
            The waveform [B, C, T]. For an iterable, an iterator of its pieces.

        Raises:
            ValueError: the model needs the whole signal, or a wrong input.
        """
        from audiocodec.models.streaming import long  # it imports the models

        model = cast(Any, self)
        if isinstance(codes, Iterable) and not hasattr(codes, 'shape'):
            return long.decoded(model, codes)
        return long.decode_long(model, cast(torch.Tensor, codes), scale, chunk_seconds)
