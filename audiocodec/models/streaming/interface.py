"""Methods of compression models for streams and long files."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from audiocodec.models.base import CompressionModel
    from audiocodec.models.streaming.coder import StreamingDecoder, StreamingEncoder


class Streaming:
    """What every compression model can do with a signal in pieces."""

    def streaming_encoder(self, batch_size: int = 1) -> 'StreamingEncoder':
        """Return an encoder of waveforms that arrive in pieces; see `StreamingEncoder`.

        Raises:
            ValueError: the model needs the whole signal.
        """
        from audiocodec.models.streaming.coder import StreamingEncoder  # it imports the models

        return StreamingEncoder(cast('CompressionModel', self), batch_size)

    def streaming_decoder(self, batch_size: int = 1) -> 'StreamingDecoder':
        """Return a decoder of codes that arrive in pieces; see `StreamingDecoder`.

        Raises:
            ValueError: the model needs the whole signal.
        """
        from audiocodec.models.streaming.coder import StreamingDecoder  # it imports the models

        return StreamingDecoder(cast('CompressionModel', self), batch_size)
