"""Streams as such: long pieces, and latency in milliseconds."""

import pytest
import torch

from audiocodec.models import EncodecModel
from audiocodec.models.streaming import coder


def test_long_pieces_are_computed_in_blocks(make_stream_codec, monkeypatch):
    """So that memory does not grow with the pieces."""
    model = make_stream_codec()
    wav = torch.randn(2, 1, 1000, dtype=torch.float64)
    codes, _ = model.encode(wav)
    monkeypatch.setattr(coder, '_BLOCK', 60)
    encoder, decoder = model.streaming_encoder(2), model.streaming_decoder(2)
    sizes = []
    for stream in (encoder, decoder):
        network = stream._network
        monkeypatch.setattr(
            network,
            'advance',
            lambda state, x, end, run=network.advance: (
                sizes.append(0 if x is None else x.shape[1]),
                run(state, x, end),
            )[1],
        )
    found = torch.cat([encoder.push(wav), encoder.flush()], dim=-1)
    assert torch.equal(found, codes)
    assert sizes == [60] * 16 + [40, 0]
    sizes.clear()
    wav_hat = torch.cat([decoder.push(codes), decoder.flush()], dim=-1)
    torch.testing.assert_close(wav_hat, model.decode(codes))
    assert sizes == [10] * 16 + [7, 0]


def test_milliseconds_of_a_decoder_are_those_of_its_output(make_stream_codec):
    base = make_stream_codec(causal=False)
    wider = make_stream_codec(causal=False, ratios=[3, 2, 2])
    model = EncodecModel(
        base.encoder, wider.decoder, base.quantizer, 1000, 1, output_sample_rate=2000
    )
    encoder, decoder = model.streaming_encoder(), model.streaming_decoder()
    assert decoder.latency_samples > 0
    assert decoder.latency_ms == pytest.approx(decoder.latency_samples / 2)
    assert encoder.latency_ms == pytest.approx(encoder.latency_samples)
