"""Long files in chunks and segments give what the whole gives."""

import pytest
import torch

OPTIONS = {
    'causal': {},
    'musicgen': {'causal': False, 'lstm': 2, 'pad_mode': 'reflect', 'norm': 'weight_norm'},
}


@pytest.mark.parametrize('name', OPTIONS)
def test_chunks_of_a_file_equal_the_whole(name, make_stream_codec):
    model = make_stream_codec(**OPTIONS[name])
    wav = torch.randn(2, 1, 1000, dtype=torch.float64)
    codes, scale = model.encode(wav)
    expected = model.decode(codes)
    found, found_scale = model.encode_long(wav, chunk_seconds=0.1)
    assert torch.equal(found, codes)
    assert scale is found_scale is None
    torch.testing.assert_close(model.decode_long(codes, chunk_seconds=0.1), expected)
    pairs = list(model.encode_long(iter(wav.split(70, dim=-1))))
    assert len(pairs) > 10
    assert torch.equal(torch.cat([part for part, _ in pairs], -1), codes)
    pieces = list(model.decode_long(iter(pairs)))
    torch.testing.assert_close(torch.cat(pieces, -1), expected)


@pytest.mark.parametrize('overlap', [0, 0.1, 0.6])
@pytest.mark.parametrize('length', [3, 50, 51, 330])
def test_segments_equal_the_whole(overlap, length, make_stream_codec):
    base = make_stream_codec(causal=False, norm='time_group_norm')
    model = type(base)(
        base.encoder,
        base.decoder,
        base.quantizer,
        1000,
        1,
        renormalize=True,
        segment_duration=0.05,
        overlap=overlap,
    ).eval()
    wav = torch.randn(2, 1, length, dtype=torch.float64)
    codes, scale = model.encode(wav)
    expected = model.decode(codes, scale)
    found = model.encode_long(wav, chunk_seconds=0.07)
    assert torch.equal(found[0], codes)
    assert torch.equal(found[1], scale)
    assert torch.equal(model.decode_long(codes, scale), expected)
    pairs = list(model.encode_long(wav.split(7, dim=-1)))
    assert torch.equal(torch.cat(list(model.decode_long(pairs)), -1), expected)
    with pytest.raises(ValueError, match='use encode_long and decode_long'):
        model.streaming_encoder()
    with pytest.raises(ValueError, match='one per segment'):
        model.decode_long(codes, scale[:, :0])


def test_a_chunk_is_at_least_a_frame(make_stream_codec):
    model = make_stream_codec()
    with pytest.raises(ValueError, match='chunk_seconds'):
        model.decode_long(torch.zeros(1, 2, 9, dtype=torch.int64), chunk_seconds=0.001)


def test_memory_does_not_grow_with_the_length(make_stream_codec, monkeypatch):
    """The largest tensor in a product is that of a block."""
    monkeypatch.setattr('audiocodec.models.streaming.coder._BLOCK', 240)
    model = make_stream_codec(torch.float32)
    sizes = []
    product = torch.addmm

    def counted(bias, x, weight, **options):
        sizes.append(x.numel())
        return product(bias, x, weight, **options)

    monkeypatch.setattr(torch, 'addmm', counted)
    largest = []
    for length in (1000, 4000):
        sizes.clear()
        codes, _ = model.encode_long(torch.randn(1, 1, length))
        model.decode_long(codes)
        largest.append(max(sizes))
    assert largest[0] == largest[1] < 240 * 3 * 5
